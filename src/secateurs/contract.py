"""The speed-up contract: a model is not done when the table says so, but when it was *measured* to be fast enough.

    prune -> shrink -> time against the dense model, interleaved -> correct the overhead -> prune again

until ``target <= measured <= target * (1 + tolerance)``. Every attempt is kept on disk with its measurement, so a run
that is taken up again comes to the same end.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs import checkpoint
from secateurs.artefact import read_json, write, write_json
from secateurs.cost import LatencyTable
from secateurs.errors import TargetUnreachable
from secateurs.job import Job, Pruner
from secateurs.mask import Mask
from secateurs.shrink import shrink
from secateurs.stages.measure import Measurement, Speed, Timing
from secateurs.target import Budget, Speedup

__all__ = ["Attempt", "keep"]

logger = logging.getLogger(__name__)

Measure = Callable[[Any], Measurement]

MARGIN = 0.01
"""Corrections aim this far above the target: timings scatter, and below it the contract is broken."""


@dataclass(frozen=True)
class Attempt:
    """One pruned model and how fast it was.

    Args:
        model: shrunk, in evaluation mode.
        mask: what it kept.
        predicted: speed-up by the latency table, before correction.
        speed: measured, with its 95 % interval.
        dense: timing of the dense model in that measurement.
        pruned: timing of the pruned model.
        number: 1 for the first.
        met: the contract holds.
    """

    model: Any
    mask: Mask
    predicted: float
    speed: Speed
    dense: Timing
    pruned: Timing
    number: int
    met: bool


def keep(
    target: Speedup,
    table: LatencyTable,
    pruner: Pruner,
    job: Job,
    measure: Measure,
    folder: Path,
    *,
    tolerance: float,
    attempts: int = 6,
    enforce: bool = True,
) -> Attempt:
    """Prune until the measured speed-up keeps to the target.

    Args:
        target: what was asked.
        table: latency of this model; its overhead is corrected on a miss.
        pruner: of the method.
        job: the dense model and what can be removed from it.
        measure: times a shrunk model against the dense one.
        folder: keeps the attempts of this target.
        tolerance: how much faster than asked is still right.
        attempts: models built at most.
        enforce: ``False`` takes the first model as it is: the table was measured elsewhere, so timings here say nothing.

    Returns:
        The first attempt that keeps to the contract; else the slowest that is fast enough; else the fastest.

    Raises:
        TargetUnreachable: no choice of levels fits the budget.
    """
    done: list[Attempt] = []
    corrected = table
    for number in range(1, attempts + 1):
        place = folder / f"attempt-{number}"
        attempt = _read(place, number)
        if attempt is None:
            try:
                mask = pruner.prune(Budget(table.dense_ms / target.value, corrected))
            except TargetUnreachable:
                if not done:
                    raise
                break
            if done and mask == done[-1].mask:
                break  # the correction changes nothing any more
            attempt = _build(target, table, mask, job, measure, place, number, tolerance)
        done.append(attempt)
        logger.info("%s, attempt %d: measured %.3fx", target, number, attempt.speed.median)
        if attempt.met or not enforce:
            break
        corrected = _correct(table, target, done)
    return _best(done, target)


def _correct(table: LatencyTable, target: Speedup, done: list[Attempt]) -> LatencyTable:
    """Shift the overhead by what the measurements showed: on the scale of the table, aiming just above the target.

    ``ms(mask) = dense_ms / measured speed-up`` is what the table should have said; the mean error of the attempts so
    far is the correction, and the budget shrinks by the margin.
    """
    wanted = table.dense_ms / (target.value * (1 + MARGIN))
    errors = [table.dense_ms / attempt.speed.median - float(table(attempt.mask.counts)) for attempt in done]
    # Later attempts lie nearer to the target: they count more.
    weights = [2.0**attempt.number for attempt in done]
    mean = sum(error * weight for error, weight in zip(errors, weights, strict=True)) / sum(weights)
    return table.corrected(mean + table.dense_ms / target.value - wanted)


def _build(
    target: Speedup,
    table: LatencyTable,
    mask: Mask,
    job: Job,
    measure: Measure,
    place: Path,
    number: int,
    tolerance: float,
) -> Attempt:
    """Shrink, time and write down."""
    # A real copy: the pruner goes on swapping tensors of the live model.
    model = shrink(copy.deepcopy(job.model), job.structure, mask)
    measured = measure(model)
    speed = measured.speedups["pruned"]
    attempt = Attempt(
        model,
        mask,
        table.speedup(mask.counts),
        speed,
        measured.timings["dense"],
        measured.timings["pruned"],
        number,
        target.value <= speed.median <= target.value * (1 + tolerance),
    )
    checkpoint.save(model, None, place / "model")
    write(place / "mask.safetensors", mask.save)
    record = {
        "predicted": attempt.predicted,
        "speed": speed.to_dict(),
        "dense": attempt.dense.to_dict(),
        "pruned": attempt.pruned.to_dict(),
        "met": attempt.met,
    }
    write_json(place / "measured.json", record)  # last: an attempt without it did not happen
    return attempt


def _read(place: Path, number: int) -> Attempt | None:
    """An attempt that an earlier run finished."""
    record = place / "measured.json"
    if not record.is_file() or not (place / "model").is_dir():
        return None
    values = read_json(record)
    return Attempt(
        checkpoint.load(place / "model").eval(),
        Mask.load(place / "mask.safetensors"),
        values["predicted"],
        Speed(**values["speed"]),
        Timing(**values["dense"]),
        Timing(**values["pruned"]),
        number,
        values["met"],
    )


def _best(done: list[Attempt], target: Speedup) -> Attempt:
    met = [attempt for attempt in done if attempt.met]
    fast = [attempt for attempt in done if attempt.speed.median >= target.value]
    if met:
        return met[-1]
    if fast:
        return min(fast, key=lambda attempt: attempt.speed.median)
    return max(done, key=lambda attempt: attempt.speed.median)
