"""The speed-up contract: a model is not done when the table says so, but when it was *measured* to be fast enough.

    choose what to keep -> shrink the dense model to those shapes -> time both, interleaved -> correct the overhead

until ``target <= measured <= target * (1 + tolerance)``. Time depends on shapes, not on weights, so nothing is fitted
until the shapes are settled. Every attempt leaves its mask and its measurement on disk, so a run that is taken up again
comes to the same end.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateurs.artefact import read_json, write, write_json
from secateurs.errors import TargetUnreachable
from secateurs.job import Pruner
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.stages.measure import Measurement, Speed, Timing
from secateurs.target import Budget, Speedup

__all__ = ["Attempt", "keep", "once"]

logger = logging.getLogger(__name__)

Measure = Callable[[Mask], Measurement]

MARGIN = 0.01
"""Corrections aim this far above the target: timings scatter, and below it the contract is broken."""

STEP = 0.004
"""Where a correction is smaller than the distance between two levels, the budget moves on by this until it is not."""


@dataclass(frozen=True)
class Attempt:
    """One choice of what to keep, and how fast it was.

    Args:
        mask: what is kept.
        predicted: speed-up by the latency table, before correction.
        speed: measured, with its 95 % interval.
        dense: timing of the dense model in that measurement.
        pruned: timing of the shrunk model.
        number: 1 for the first.
        met: the contract holds; ``None`` if timings here cannot judge that.
    """

    mask: Mask
    predicted: float
    speed: Speed
    dense: Timing
    pruned: Timing
    number: int
    met: bool | None


def keep(
    target: Speedup,
    table: LatencyTable,
    pruner: Pruner,
    measure: Measure,
    folder: Path,
    *,
    tolerance: float,
    attempts: int = 8,
    enforce: bool = True,
) -> Attempt:
    """Choose until the measured speed-up keeps to the target.

    Args:
        target: what was asked.
        table: latency of this model; its overhead is corrected on a miss.
        pruner: of the method.
        measure: times the dense model shrunk to a mask against the dense model itself.
        folder: keeps the attempts of this target.
        tolerance: how much faster than asked is still right.
        attempts: choices timed at most.
        enforce: ``False`` takes the first choice as it is: the table was measured elsewhere, so timings here say nothing.

    Returns:
        The first attempt that keeps to the contract; else the slowest that is fast enough; else the fastest.

    Raises:
        TargetUnreachable: no choice of levels fits the budget.
    """
    done: list[Attempt] = []
    for number in range(1, attempts + 1):
        place = folder / f"attempt-{number}"
        attempt = _read(place, number)
        if attempt is None:
            try:
                mask = _next(target, table, pruner, done)
            except TargetUnreachable:
                if not done:
                    raise
                break
            if mask is None:
                break
            attempt = _time(target if enforce else None, table, mask, measure, place, number, tolerance)
        done.append(attempt)
        logger.info("%s, attempt %d: measured %.3fx", target, number, attempt.speed.median)
        if attempt.met or not enforce:
            break
    return _best(done, target)


def once(budget: Budget, table: LatencyTable, pruner: Pruner, measure: Measure, folder: Path) -> Attempt:
    """Choose and time, for a target that time has no say in.

    Raises:
        TargetUnreachable: no choice fits the budget.
    """
    place = folder / "attempt-1"
    return _read(place, 1) or _time(None, table, pruner.choose(budget), measure, place, 1, 0.0)


def _next(target: Speedup, table: LatencyTable, pruner: Pruner, done: Sequence[Attempt]) -> Mask | None:
    """The method's choice for the corrected budget; ``None`` if it has no other than those that were timed."""
    limit = table.dense_ms / target.value
    if not done:
        return pruner.choose(target.budget(table))
    corrected = table.corrected(_error(table, target, done))
    # Too slow: the budget shrinks from here on until another mask comes out; too fast: it grows.
    direction = -1 if done[-1].speed.median < target.value else 1
    for step in range(10):
        mask = pruner.choose(Budget(limit * (1 + direction * STEP * step), corrected, target.folder))
        if all(mask != attempt.mask for attempt in done):
            return mask
    return None


def _error(table: LatencyTable, target: Speedup, done: Sequence[Attempt]) -> float:
    """What the table leaves out, in ms on its own scale, plus the margin that corrections aim above the target.

    ``dense_ms / measured speed-up`` is what the table should have said of an attempt. Later attempts lie nearer to the
    target: each counts twice as much as the one before it.
    """
    errors = [table.dense_ms / attempt.speed.median - float(table(attempt.mask.counts)) for attempt in done]
    weights = [2.0**attempt.number for attempt in done]
    mean = sum(error * weight for error, weight in zip(errors, weights, strict=True)) / sum(weights)
    limit = table.dense_ms / target.value
    return mean + limit - limit / (1 + MARGIN)


def _time(
    target: Speedup | None,
    table: LatencyTable,
    mask: Mask,
    measure: Measure,
    place: Path,
    number: int,
    tolerance: float,
) -> Attempt:
    """Measure and write down."""
    measured = measure(mask)
    speed = measured.speedups["pruned"]
    attempt = Attempt(
        mask,
        table.speedup(mask.counts),
        speed,
        measured.timings["dense"],
        measured.timings["pruned"],
        number,
        None if target is None else target.value <= speed.median <= target.value * (1 + tolerance),
    )
    write(place / "mask.safetensors", mask.save)
    record = {
        "predicted": attempt.predicted,
        "speed": dataclasses.asdict(speed),
        "dense": dataclasses.asdict(attempt.dense),
        "pruned": dataclasses.asdict(attempt.pruned),
        "met": attempt.met,
    }
    write_json(place / "measured.json", record)  # last: an attempt without it did not happen
    return attempt


def _read(place: Path, number: int) -> Attempt | None:
    """An attempt that an earlier run finished."""
    record = place / "measured.json"
    if not record.is_file():
        return None
    values = read_json(record)
    return Attempt(
        Mask.load(place / "mask.safetensors"),
        values["predicted"],
        Speed(**values["speed"]),
        Timing(**values["dense"]),
        Timing(**values["pruned"]),
        number,
        values["met"],
    )


def _best(done: Sequence[Attempt], target: Speedup) -> Attempt:
    met = [attempt for attempt in done if attempt.met]
    fast = [attempt for attempt in done if attempt.speed.median >= target.value]
    if met:
        return met[-1]
    if fast:
        return min(fast, key=lambda attempt: attempt.speed.median)
    return max(done, key=lambda attempt: attempt.speed.median)
