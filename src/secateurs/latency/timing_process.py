"""The process that times saved models: it reads a request from standard input, and its last line of output is the answer.

``secateurs.latency.fresh_processes`` starts it. A request is the JSON form of ``Request``; the answer is
``Measurement.to_dict()``, or ``{"error": line}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from secateurs.checkpoint.load_model import load
from secateurs.checkpoint.refusals import first_line
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.errors import SecateursError, UnsupportedModelError
from secateurs.latency.compare import Measurement, compare
from secateurs.latency.environment import Environment

__all__ = ["Request", "SavedModel", "answer", "main"]


@dataclass(frozen=True)
class SavedModel:
    """A model on disk or on the hub, and how it is loaded.

    Args:
        source: folder, or hub id.
        auto_class: name of the transformers class that loads it; ``None`` = the class that it was saved with.
        subfolder: subfolder of ``source`` that holds the weights, with ``auto_class``.
        may_be_missing: prefixes of the parameter names that the weights may lack, with ``auto_class``.
        trust_remote_code: whether Python code of the checkpoint may be run.
        runtime: runtime that executes it; ``None`` = that of the environment.
    """

    source: str
    auto_class: str | None = None
    subfolder: str = ""
    may_be_missing: tuple[str, ...] = ()
    trust_remote_code: bool = False
    runtime: str | None = None

    def load(self) -> Any:
        """The model in float32, on the CPU, in evaluation mode.

        Raises:
            SecateursError: the model cannot be loaded.
        """
        if self.auto_class is None:
            return load_saved_model(self.source, trust_remote_code=self.trust_remote_code)
        model, _ = load(
            self.source,
            self.auto_class,
            dtype=torch.float32,
            device="cpu",
            trust_remote_code=self.trust_remote_code,
            revision=None,
            may_be_missing=tuple(self.may_be_missing),
            subfolder=self.subfolder,
        )
        return model


@dataclass(frozen=True)
class Request:
    """What one process times.

    Args:
        models: model name -> where the model is.
        baseline: name of the model that speed-ups refer to.
        environment: environment of the timings.
        seed: seed of the random tokens and of the order of the timings.
        seconds: wall time in seconds after which no further round starts.
        rounds: minimum and maximum number of rounds.
    """

    models: Mapping[str, SavedModel]
    baseline: str
    environment: Environment
    seed: int
    seconds: float
    rounds: tuple[int, int]

    def to_json(self) -> str:
        """The request as one line of JSON."""
        return json.dumps({**asdict(self), "environment": self.environment.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Inverse of ``to_json``."""
        values = json.loads(text)
        models = {name: SavedModel(**saved) for name, saved in values.pop("models").items()}
        return cls(models=models, environment=Environment.from_dict(values.pop("environment")), **values)


def answer(request: Request) -> Measurement:
    """Load the models and time them.

    Raises:
        SecateursError: a model cannot be loaded, or cannot run in the environment.
    """
    sources = {name: repr(replace(saved, runtime=None)) for name, saved in request.models.items()}
    loaded = {sources[name]: saved for name, saved in request.models.items()}  # once, for all its runtimes
    loaded = {source: saved.load() for source, saved in loaded.items()}
    models = {name: loaded[source] for name, source in sources.items()}
    try:
        return compare(
            models,
            request.environment,
            baseline=request.baseline,
            runtimes={name: saved.runtime for name, saved in request.models.items() if saved.runtime is not None},
            seed=request.seed,
            seconds=request.seconds,
            rounds=(request.rounds[0], request.rounds[1]),
        )
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{' and '.join(request.models)} cannot be timed together on the same token ids ({first_line(error)}); "
            "encoders and decoders over one vocabulary can"
        ) from None


def main() -> None:
    """Answer the request on standard input."""
    try:
        result = answer(Request.from_json(sys.stdin.read())).to_dict()
    except SecateursError as error:
        result = {"error": str(error)}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
