"""Latency curves before and after the clock runs: who shares one, where it is measured, what the readings give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateurs.cost import matrix_shape
from secateurs.errors import RecipeError
from secateurs.latency_curve import LatencyCurve
from secateurs.numerics.low_rank import break_even
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["CurvePlan", "fit_curve", "free_multiple", "measured_units", "plan_curves"]

FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Where a curve of many narrow units is measured, besides one unit, the first multiple and full size."""

PROBED = (1, 2, 4, 8, 16, 32, 64)
"""Alignments that are tried when the free multiple is measured."""

_VARYING = {"layer_idx", "training", "in_features", "out_features", "nx", "nf"}


@dataclass(frozen=True)
class CurvePlan:
    """A curve to be measured: on which group, at which counts, and how widths are snapped."""

    group: Group
    units: tuple[int, ...]
    multiple: int
    probe: tuple[int, ...] = ()
    pair: int = 0
    """Of ranks: see ``LatencyCurve``."""


def plan_curves(
    model: Any, structure: Structure, points: Mapping[Kind, Sequence[int]], multiple: int, probe: bool
) -> tuple[dict[str, CurvePlan], dict[str, str]]:
    """Which curves to measure: groups of one geometry share a curve, measured on the largest of them.

    Args:
        model: the model of the structure.
        structure: the groups to be priced.
        points: kept counts to measure, by kind, in place of ``measured_units``.
        multiple: what widths (not heads) are snapped to.
        probe: also plan the widths that tell the free multiple.

    Returns:
        Curve name -> plan, and group name -> curve name.

    Raises:
        RecipeError: a group is of no single layer.
    """
    shapes: dict[Any, list[Group]] = {}
    for group in structure:
        if group.kind is Kind.HIDDEN or not group.layer:
            raise RecipeError(
                f"group {group.name} ({group.kind}) is of no single layer and has no latency curve of its own; "
                "use a sparsity target"
            )
        shapes.setdefault(_geometry(model, group), []).append(group)
    curves: dict[str, CurvePlan] = {}
    names: dict[str, str] = {}
    for members in shapes.values():
        largest = max(members, key=lambda group: group.size)
        kind = largest.kind
        number = 1 + sum(curve.group.kind is kind for curve in curves.values())
        name = str(kind) if number == 1 else f"{kind}.{number}"
        step = 1 if kind is Kind.HEAD else multiple
        pair = _highest_pair(model, largest)
        units = measured_units(kind, largest.size, step, points.get(kind), pair=pair)
        start = largest.size // 2 // 128 * 128
        wide = probe and kind is Kind.INTERMEDIATE and start > 0 and start + 128 <= largest.size
        widths = (start, *(start + part for part in PROBED), start + 128) if wide else ()
        curves[name] = CurvePlan(largest, units, step, widths, pair)
        names |= {group.name: name for group in members}
    return curves, {group.name: names[group.name] for group in structure}


def measured_units(
    kind: Kind, size: int, multiple: int, chosen: Sequence[int] | None = None, *, pair: int = 0
) -> tuple[int, ...]:
    """Kept counts at which a curve is measured, ascending, without 0 and with ``size``.

    Heads: powers of two, and a point between where the last step is wide. Neurons and ranks: one, the first multiple,
    and fixed fractions of full size, snapped to the multiple; of ranks, fractions of the highest ``pair``, since all
    above it costs the same.

    >>> measured_units(Kind.HEAD, 12, 8), measured_units(Kind.INTERMEDIATE, 1536, 8)
    ((1, 2, 4, 8, 12), (1, 8, 48, 96, 192, 384, 768, 1152, 1536))
    """
    if chosen is not None:
        return tuple(sorted({unit for unit in chosen if 0 < unit < size} | {pair or size, size}))
    if kind is Kind.HEAD:
        powers = [2**i for i in range(size.bit_length()) if 2**i < size]
        middle = [(powers[-1] + size) // 2] if powers and 3 * (size - powers[-1]) > size else []
        return tuple(sorted({*powers, *middle, size}))
    top = pair or size
    snapped = {max(1, round(top * fraction / multiple)) * multiple for fraction in FRACTIONS}
    return tuple(sorted({unit for unit in {1, multiple, *snapped} if unit < top} | {top, size}))


def fit_curve(
    units: Sequence[int],
    raw_ms: Sequence[float],
    spread: Sequence[float],
    *,
    multiple: int,
    floor: float,
    pair: int = 0,
) -> LatencyCurve:
    """The least-squares non-decreasing curve through the readings (pool adjacent violators), at least ``floor``.

    Args:
        units: kept counts, ascending, without 0.
        raw_ms: milliseconds above the emptied sub-block at those counts.
        spread: relative spread of each reading.
        multiple: what widths are snapped to.
        floor: the least a kept unit may cost, > 0, in ms.
        pair: see ``LatencyCurve``. Two factors slower than the matrix count as much as it: pooled with them, the dense
            model would seem slower than it is.
    """
    from scipy.optimize import isotonic_regression

    read = np.asarray(raw_ms, dtype=float)
    ms = np.maximum(isotonic_regression(np.minimum(read, read[-1]) if pair else read).x, floor)
    return LatencyCurve(
        (0, *units), (0.0, *map(float, ms)), (0.0, *map(float, raw_ms)), (0.0, *map(float, spread)), multiple, pair
    )


def free_multiple(times: Mapping[int, float], tolerance: float = 0.03) -> int:
    """The smallest alignment of a width from which on no width costs more than its share.

    Args:
        times: width -> ms: an aligned width ``w``, ``w + m`` for the alignments ``m`` to be judged, and the next
            aligned width, in any order. The line between the first and the last is the fair price.
        tolerance: how much above the line still counts as free.
    """
    first, last = min(times), max(times)
    slope = (times[last] - times[first]) / (last - first)
    free = last - first
    for width in sorted(times, reverse=True)[1:-1]:
        if times[width] > (1 + tolerance) * (times[first] + slope * (width - first)):
            break
        free = width - first
    return free


def _geometry(model: Any, group: Group) -> Any:
    """Everything that makes two groups cost the same at the same kept count, whatever their present sizes."""
    if group.kind in (Kind.RANK, Kind.INPUT):  # wherever the matrix is
        bias = getattr(model.get_submodule(group.product or group.reader), "bias", None) is not None
        return (
            group.kind,
            bool(group.instead_of),
            tuple((cut.dim, shape) for cut, shape in _without_units(model, group)),
            bias,
        )
    start = len(group.layer) + 1
    cuts = [(cut.parameter[start:], cut.dim, cut.width, shape) for cut, shape in _without_units(model, group)]
    block = model.get_submodule(group.block)
    follows = {path.rpartition(".")[2] for path in group.attributes} | _VARYING
    fields = tuple(
        sorted(
            (name, repr(value))
            for name, value in vars(block).items()
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name not in follows
        )
    )
    modules = (group.layer, group.block, group.reader, *group.norms)
    classes = tuple(type(model.get_submodule(path)).__qualname__ for path in modules)
    return group.kind, tuple(cuts), classes, fields


def _without_units(model: Any, group: Group) -> list[tuple[Cut, tuple[int, ...]]]:
    """Every cut, and the shape its parameter would have if none of the units were left."""
    found = []
    if group.instead_of:  # there are no factors yet
        rows, columns = matrix_shape(model, group.product)
        return list(zip(group.cuts, ((0, columns), (rows, 0)), strict=True))
    for cut in group.cuts:
        shape = list(model.get_parameter(cut.parameter).shape)
        shape[cut.dim] -= sum(
            other.width * group.size for other in group.cuts if (other.parameter, other.dim) == (cut.parameter, cut.dim)
        )
        found.append((cut, tuple(shape)))
    return found


def _highest_pair(model: Any, group: Group) -> int:
    """The highest rank at which a pair of factors stays one; 0 where it always does."""
    if not group.product:
        return 0
    (_, first), (_, second) = _without_units(model, group)
    even = break_even(max(first), max(second))
    return even if even < group.size else 0
