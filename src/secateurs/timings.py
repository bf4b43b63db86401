"""``secateurs measure``: models timed against each other, or the latency table of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from secateurs import checkpoint
from secateurs.environment import Clock, Environment
from secateurs.errors import CheckpointError, RecipeError, UnsupportedModelError
from secateurs.families import discover
from secateurs.stages.latency import measure_table
from secateurs.stages.measure import compare
from secateurs.tasks._loading import first_line
from secateurs.workload import check

__all__ = ["compare_models", "environment_of", "load_model", "write_table"]

Track = Callable[..., Iterable[Any]]

HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}
"""End of a stock class's name -> the Auto class that loads it from the hub; anything else is loaded without a head."""


def environment_of(*, clock: str, threads: int, **values: Any) -> Environment:
    """From options; 0 threads means all.

    Raises:
        RecipeError: there is no such clock, device or dtype here.
    """
    if clock not in ("wall", "cpu"):
        raise RecipeError(f"there is no clock {clock!r}; the clocks are wall and cpu")
    chosen: Clock = "cpu" if clock == "cpu" else "wall"
    environment = Environment(clock=chosen, threads=threads or torch.get_num_threads(), **values)
    check(environment)
    return environment


def compare_models(
    models: Sequence[str], environment: Environment, *, seconds: float, seed: int, trust: bool, track: Track
) -> Table:
    """Latency, throughput and speed-up over the first model, paired."""
    loaded = {name: load_model(name, trust).to(environment.device) for name in models}
    if len(loaded) < len(models):
        raise RecipeError("the same model was given twice")
    try:
        measured = compare(loaded, environment, baseline=models[0], seconds=seconds, seed=seed, track=track)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{' and '.join(models)} cannot be timed together on the same token ids ({first_line(error)}); "
            "encoders and decoders over one vocabulary can"
        ) from None
    table = Table("model", "latency", "quartiles", "per second", "speed-up", "95 % interval", title=str(environment))
    for name, timing in measured.timings.items():
        speed = measured.speedups[name]
        table.add_row(
            name,
            f"{timing.latency_ms:.2f} ms",
            f"{timing.latency_low:.2f} to {timing.latency_high:.2f}",
            f"{timing.throughput_per_second:.1f}",
            f"{speed.median:.3f}x",
            f"{speed.low:.3f} to {speed.high:.3f}",
        )
    return table


def write_table(
    model: str,
    environment: Environment,
    path: Path,
    *,
    seconds: float,
    seed: int,
    trust: bool,
    track: Track,
    probe: bool = False,
) -> Table:
    """Measure the latency table of one model and write it.

    Raises:
        CheckpointError: the file cannot be written.
    """
    loaded = load_model(model, trust)
    table = measure_table(loaded, discover(loaded), environment, seconds=seconds, seed=seed, probe=probe, track=track)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError as error:
        raise CheckpointError(f"cannot write the latency table {path}: {error.strerror}") from None
    drawn = Table("kind", "kept: ms", title=f"{environment}: dense {table.dense_ms:.2f} ms, noise {table.noise:.1%}")
    for name, curve in table.curves.items():
        drawn.add_row(
            f"{name} (by {curve.multiple})",
            "  ".join(f"{kept}: {ms:.2f}" for kept, ms in zip(curve.units, curve.ms, strict=True)),
        )
    drawn.add_row("what no cut removes", f"{table.overhead_ms:.2f}")
    drawn.caption = f"largest speed-up {table.largest_speedup:.1f}x; written to {path}"
    return drawn


def load_model(model: str, trust: bool) -> Any:
    """With the head it was saved with, in float32.

    Raises:
        CheckpointError: the folder is missing or damaged, or the hub cannot be reached.
    """
    import transformers

    from secateurs.tasks._loading import load

    if not Path(model).is_dir() and Path(model).exists():
        raise CheckpointError(f"{model} is a file; name the folder of a model")
    if (Path(model) / "config.json").is_file() and not trust:
        return checkpoint.load(model, dtype=torch.float32).eval()
    try:
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot read {model}: {first}") from None
    head = next(iter(config.architectures or ()), "AutoModel")
    auto = next((name for suffix, name in HEADS.items() if head.endswith(suffix)), "AutoModel")
    return load(model, auto, dtype=torch.float32, device="cpu", trust_remote_code=trust, revision=None)[0]
