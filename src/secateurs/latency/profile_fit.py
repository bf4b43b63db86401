"""From readings to a latency table: medians, differences, non-decreasing curves, and one common scale."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment, machine
from secateurs.latency.interleave import Samples
from secateurs.latency.profile_plan import PlannedCurve, ProfilePlan
from secateurs.latency.profile_runs import EMPTIED, FULL_SIZE, OUTPUT_HEAD, point_name
from secateurs.latency.table import LatencyTable
from secateurs.structure.structure import Structure

__all__ = ["fit_curve", "fit_table", "free_multiple"]

logger = logging.getLogger(__name__)

MIN_REMOVABLE_SHARE = 0.05
"""Smallest share of the full-size model's time that the table takes to be removable.

A smaller measured share is not distinguishable from noise, so this share replaces it and a warning is logged.
"""

SCALE_TOLERANCE = 0.1
"""Deviation of the common scale of the curves from 1 above which a warning is logged."""

FREE_TOLERANCE = 0.03
"""Time of a width above its share, relative to the share, up to which the width counts as free of extra cost."""


def fit_table(
    samples: Samples,
    plan: ProfilePlan,
    structure: Structure,
    environment: Environment,
    *,
    dense_ms: float | None,
    noise: float,
) -> LatencyTable:
    """Fit a latency table to the readings of the runs from ``profile_runs``.

    The curves are scaled by one common factor, so that ``overhead + sum of curves`` equals the time of the full-size
    model. The overhead is the time of the emptied model.

    Args:
        samples: readings of all runs.
        plan: planned curves of the model.
        structure: structure of the model.
        environment: environment of the readings.
        dense_ms: milliseconds of the dense model, or ``None`` if the full-size model is the dense model.
        noise: relative noise of the readings.
    """
    full_size, emptied = samples.median(FULL_SIZE), samples.median(EMPTIED)
    floor = 1e-3 * full_size / len(structure)
    fitted = {name: _fit_readings(samples, name, curve, floor) for name, curve in plan.curves.items()}
    raw = sum(float(fitted[plan.groups[group.name]](group.size)) for group in structure.without_low_rank_options())
    overhead = emptied
    if full_size - emptied < MIN_REMOVABLE_SHARE * full_size:
        overhead = (1 - MIN_REMOVABLE_SHARE) * full_size
        logger.warning(
            "the dense model (%.3f ms) is hardly slower than with everything removed (%.3f ms) on %s: pruning cannot "
            "make it faster there, or the timings are noise; the table assumes that %.0f %% of the time can be removed",
            full_size,
            emptied,
            environment,
            100 * MIN_REMOVABLE_SHARE,
        )
    scale = (full_size - overhead) / raw
    if abs(scale - 1) > SCALE_TOLERANCE:
        logger.warning(
            "the layers take %.3f ms when they are timed one by one, but %.3f ms inside the full-size model on %s; the "
            "curves are scaled by %.2f",
            raw,
            full_size - overhead,
            environment,
            scale,
        )
    scaled = {name: replace(curve, ms=tuple(scale * ms for ms in curve.ms)) for name, curve in fitted.items()}
    options = tuple(group.name for group in structure.low_rank_options)
    return LatencyTable(
        environment,
        full_size if dense_ms is None else dense_ms,
        overhead,
        scaled,
        dict(plan.groups),
        machine(),
        noise,
        options,
        output_head_ms=min(samples.median(OUTPUT_HEAD), overhead) if OUTPUT_HEAD in samples.ms else None,
    )


def _fit_readings(samples: Samples, name: str, curve: PlannedCurve, floor: float) -> LatencyCurve:
    """Fit one curve to the median readings above the emptied layer, or above the emptied matrix."""
    base = samples.median(point_name(name, 0) if curve.matrix else curve.group.layer)
    points = [point_name(name, units) for units in curve.units]
    multiple = curve.multiple
    if curve.probe:
        spread = max(samples.spread(point_name(name, width)) for width in curve.probe)
        times = {width: samples.median(point_name(name, width)) - base for width in curve.probe}
        multiple = free_multiple(times, max(FREE_TOLERANCE, spread))
    return fit_curve(
        curve.units,
        [samples.median(point) - base for point in points],
        [samples.spread(point) for point in points],
        multiple=multiple,
        floor=floor,
        max_factored_rank=curve.max_factored_rank,
    )


def fit_curve(
    units: Sequence[int],
    raw_ms: Sequence[float],
    spread: Sequence[float],
    *,
    multiple: int,
    floor: float,
    max_factored_rank: int = 0,
) -> LatencyCurve:
    """Least-squares non-decreasing curve through readings (pool adjacent violators), with a lower bound.

    Args:
        units: kept counts, ascending, without 0.
        raw_ms: milliseconds above the emptied sub-block at those counts.
        spread: relative spread of the reading at each count.
        multiple: multiple to which widths are snapped.
        floor: lower bound of the curve from one unit on, > 0, in ms.
        max_factored_rank: see ``LatencyCurve``. If it is set, readings above the last one, which is the matrix, are
            lowered to it. Otherwise a pair of factors slower than the matrix would be pooled with the matrix, and the
            dense model would appear slower than it is.
    """
    from scipy.optimize import isotonic_regression

    read = np.asarray(raw_ms, dtype=float)
    ms = np.maximum(isotonic_regression(np.minimum(read, read[-1]) if max_factored_rank else read).x, floor)
    return LatencyCurve(
        (0, *units),
        (0.0, *map(float, ms)),
        (0.0, *map(float, raw_ms)),
        (0.0, *map(float, spread)),
        multiple,
        max_factored_rank,
    )


def free_multiple(times: Mapping[int, float], tolerance: float = FREE_TOLERANCE) -> int:
    """Smallest alignment of a width such that no width with it or a larger alignment costs more than its share.

    The share of a width is its value on the line between the smallest and the largest width.

    Args:
        times: width -> milliseconds, in any order: an aligned width ``w``, the widths ``w + m`` for the alignments ``m``
            to be tested, and the next aligned width.
        tolerance: time above the share, relative to the share, that still counts as no extra cost.
    """
    first, last = min(times), max(times)
    slope = (times[last] - times[first]) / (last - first)
    free = last - first
    for width in sorted(times, reverse=True)[1:-1]:
        if times[width] > (1 + tolerance) * (times[first] + slope * (width - first)):
            break
        free = width - first
    return free
