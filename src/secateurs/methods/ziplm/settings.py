"""The hyper-parameters of ZipLM, and the paper's choices as a preset.

The default differs from the paper where we measured better; ``docs/methods/ziplm.md`` lists each difference with its figures.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateurs.methods._settings import OneShot

__all__ = ["FINALISTS_FROM", "FINALIST_TEXTS", "PRESETS", "SETTINGS", "ZipLMSettings"]

FINALIST_TEXTS = 1024
"""Texts that a finalist is refitted on: with half as many, refits scatter more than finalists differ."""

FINALISTS_FROM = 1792
"""Texts to fit from which there are finalists: refitting all of them takes as long as the rest of a run with fewer texts."""


@dataclass(frozen=True)
class ZipLMSettings(OneShot):
    """Hyper-parameters of one-shot structured pruning to a time budget.

    Args:
        allow: what may be done to a sub-block. ``units``: heads or neurons are removed. ``rank``: they are, or its matrices
            are split into low-rank factors, whichever loses less quality for its time.
        inputs: ``dense``: every projection is fitted to inputs from the dense model (the paper). ``sequential``: the chosen
            allocation is fitted once more, layer by layer, to inputs from the pruned layers before.
        damping: fraction of the mean diagonal added to each Hessian.
        refit_damping: the same, for the solution on all columns in the sequential refit; it is held to the dense weights.
        drift_damping: the same, for the correction of input drift, which is held to the identity; ``None`` = no correction.
        compensate: refit biases too.
        padding: count PAD tokens too.
        weigh: weight of a token in Hessians and fits. ``gradient``: the length of the gradient of the outputs there
            (``secateurs.oneshot.token_weights``). ``even``: all alike (the paper; always so with ``allow=rank``).
        objective: ``divergence``: candidates are compared by the divergence of their outputs from the dense outputs.
            ``loss``: by the task loss, with the paper's prior and coefficient search.
        search: how ``divergence`` is searched. ``gradient``: one forward and a few backward passes price every level, and the
            best allocations by that price race on other texts. ``probes``: levels are measured one by one, then again around
            the incumbent, then there are local moves (always so with ``allow=rank``, and where a norm stands behind the
            projections, as in Gemma 2). It takes several times as long.
        ratio: each feed-forward level keeps this fraction of the one before it (0.9 in the paper).
        snap: round widths to the multiple of the latency table: 8 on the CPU, 64 on a GPU, or what `measure --table FILE
            --probe` measured.
        search_samples: texts on which candidates are proposed, long ones preferred; as many others accept or reject them.
            Neither are more than half of the calibration samples.
        directions: random directions per text, with a backward pass each (``search=gradient``).
        probes: levels measured per group; the others are interpolated (``search=probes``).
        rounds: how many times the sensitivities are measured again around the incumbent (``search=probes``).
        steps: local moves (``search=probes``), or redraws of the coefficients (``loss``; 1000 in the paper).
        finalists: near-optimal allocations that are refitted to find the best one (with ``divergence`` and ``sequential``,
            and 1792 calibration samples or more); 0 = take the result of the search.
        inits: random coefficient vectors to start from (``loss``; 100 in the paper).
        probability: probability that a coefficient is drawn again (``loss``; 0.1 in the paper).
    """

    name: ClassVar[str] = "ziplm"

    allow: Literal["units", "rank"] = "units"
    inputs: Literal["dense", "sequential"] = "sequential"
    damping: Annotated[float, Field(ge=0)] = 1e-2
    refit_damping: Annotated[float, Field(ge=0)] = 1e-1
    drift_damping: Annotated[float, Field(ge=0)] | None = 1e-1
    compensate: bool = True
    padding: bool = False
    weigh: Literal["gradient", "even"] = "gradient"
    objective: Literal["divergence", "loss"] = "divergence"
    search: Literal["gradient", "probes"] = "gradient"
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.93
    snap: bool = True
    search_samples: Annotated[int, Field(ge=2)] = 256
    directions: Annotated[int, Field(ge=1)] = 2
    probes: Annotated[int, Field(ge=3)] = 9
    rounds: Annotated[int, Field(ge=0)] = 1
    steps: Annotated[int, Field(ge=0)] = 40
    finalists: Annotated[int, Field(ge=0)] = 10
    inits: Annotated[int, Field(ge=1)] = 100
    probability: Annotated[float, Field(ge=0, le=1)] = 0.1

    @property
    def weighs_tokens(self) -> bool:
        """Whether tokens have weights. The errors of low-rank options are measured without, so none has weights then."""
        return self.weigh == "gradient" and self.allow == "units"

    @property
    def searches_by_gradient(self) -> bool:
        """Whether the responses of the outputs price the levels. They know no low-rank options."""
        return self.objective == "divergence" and self.search == "gradient" and self.allow == "units"


SETTINGS = ZipLMSettings

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "inputs": "dense",
        "damping": 0.0,
        "compensate": False,
        "padding": True,
        "weigh": "even",
        "objective": "loss",
        "ratio": 0.9,
        "snap": False,
        "steps": 1000,
        "inits": 100,
        "probability": 0.1,
    }
}
