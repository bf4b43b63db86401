"""The speed-up contract: a model is done when it is *measured* to be fast enough, not when the latency table predicts it.

    allocate -> shrink the dense model to those shapes -> time both, interleaved -> correct the overhead of the table

until ``target <= measured <= target * (1 + tolerance)``. Time depends on shapes and not on weights, so nothing is fitted
until the shapes are settled. Every attempt leaves its allocation and its measurement on disk, so that a resumed run gets the
same result.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateurs.artifacts import read_json, write_json
from secateurs.errors import TargetUnreachable
from secateurs.latency.compare import Measurement, Speed, Timing
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.structure.allocation import Allocation
from secateurs.structure.target import Budget, Speedup

__all__ = ["Attempt", "meet", "single_attempt"]

logger = logging.getLogger(__name__)

Measure = Callable[[Allocation], Measurement]

MARGIN = 0.01
"""Corrections aim this far above the target, since timings scatter and a result below the target breaks the contract."""

STEP = 0.004
"""If a correction is smaller than the distance between two levels, the budget moves on by this fraction until it is not."""


@dataclass(frozen=True)
class Attempt:
    """One allocation and its measured speed.

    Args:
        allocation: kept units of every group.
        predicted: speed-up by the latency table, before any correction.
        speed: measured speed-up with its 95 % interval.
        dense: timing of the dense model in that measurement.
        pruned: timing of the shrunk model.
        number: 1 for the first attempt.
        met: whether the contract holds; ``None`` if timings here cannot tell.
    """

    allocation: Allocation
    predicted: float
    speed: Speed
    dense: Timing
    pruned: Timing
    number: int
    met: bool | None


def meet(
    target: Speedup,
    table: LatencyTable,
    fitted: Fitted,
    measure: Measure,
    folder: Path,
    *,
    tolerance: float,
    attempts: int = 8,
    enforce: bool = True,
) -> Attempt:
    """Allocate until the measured speed-up meets the target.

    Args:
        target: the speed-up that was asked for.
        table: latency table of this model; its overhead is corrected after a miss.
        fitted: the fitted method.
        measure: times the dense model shrunk to an allocation against the dense model itself.
        folder: folder of the attempts of this target.
        tolerance: how much faster than asked a result may be, as a fraction.
        attempts: largest number of allocations that are timed.
        enforce: ``False`` takes the first allocation: the table was measured elsewhere, and timings here cannot judge it.

    Returns:
        The first attempt that meets the contract; else the slowest one that is fast enough; else the fastest one.

    Raises:
        TargetUnreachable: no choice of levels fits the budget.
    """
    done: list[Attempt] = []
    for number in range(1, attempts + 1):
        place = folder / f"attempt-{number}"
        attempt = _read(place, number)
        if attempt is None:
            try:
                allocation = _next(target, table, fitted, done)
            except TargetUnreachable:
                if not done:
                    raise
                break
            if allocation is None:
                break
            attempt = _time(target if enforce else None, table, allocation, measure, place, number, tolerance)
        done.append(attempt)
        logger.info("%s, attempt %d: measured %.3fx", target, number, attempt.speed.median)
        if attempt.met or not enforce:
            break
    return _best(done, target)


def single_attempt(budget: Budget, table: LatencyTable, fitted: Fitted, measure: Measure, folder: Path) -> Attempt:
    """Allocate and time once, for a target that is not a time.

    Raises:
        TargetUnreachable: nothing fits the budget.
    """
    place = folder / "attempt-1"
    return _read(place, 1) or _time(None, table, fitted.allocate(budget), measure, place, 1, 0.0)


def _next(target: Speedup, table: LatencyTable, fitted: Fitted, done: Sequence[Attempt]) -> Allocation | None:
    """The allocation for the corrected budget; ``None`` if it is one of those that were timed already."""
    limit = table.dense_ms / target.value
    if not done:
        return fitted.allocate(target.budget(table))
    corrected = table.corrected(_table_error(table, target, done))
    # Too slow: shrink the budget until another allocation is found. Too fast: let it grow.
    direction = -1 if done[-1].speed.median < target.value else 1
    for step in range(10):
        allocation = fitted.allocate(Budget(limit * (1 + direction * STEP * step), corrected, target.folder))
        if all(allocation != attempt.allocation for attempt in done):
            return allocation
    return None


def _table_error(table: LatencyTable, target: Speedup, done: Sequence[Attempt]) -> float:
    """What the table leaves out, in ms on its own scale, plus the margin that corrections aim above the target.

    ``dense_ms / measured speed-up`` is the time that the table should have predicted for an attempt. Later attempts are
    nearer to the target: each counts twice as much as the one before it.
    """
    errors = [table.dense_ms / attempt.speed.median - float(table(attempt.allocation)) for attempt in done]
    weights = [2.0**attempt.number for attempt in done]
    mean = sum(error * weight for error, weight in zip(errors, weights, strict=True)) / sum(weights)
    limit = table.dense_ms / target.value
    return mean + limit - limit / (1 + MARGIN)


def _time(
    target: Speedup | None,
    table: LatencyTable,
    allocation: Allocation,
    measure: Measure,
    place: Path,
    number: int,
    tolerance: float,
) -> Attempt:
    """Measure, and write the attempt to disk."""
    measured = measure(allocation)
    speed = measured.speedups["pruned"]
    attempt = Attempt(
        allocation,
        table.speedup(allocation),
        speed,
        measured.timings["dense"],
        measured.timings["pruned"],
        number,
        None if target is None else target.value <= speed.median <= target.value * (1 + tolerance),
    )
    record = {
        "allocation": attempt.allocation,
        "predicted": attempt.predicted,
        "speed": dataclasses.asdict(speed),
        "dense": dataclasses.asdict(attempt.dense),
        "pruned": dataclasses.asdict(attempt.pruned),
        "met": attempt.met,
    }
    write_json(place / "measured.json", record)
    return attempt


def _read(place: Path, number: int) -> Attempt | None:
    """An attempt that an earlier run finished."""
    record = place / "measured.json"
    if not record.is_file():
        return None
    values = read_json(record)
    return Attempt(
        values["allocation"],
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
