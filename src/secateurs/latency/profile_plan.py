"""Plan of a latency profile: which curves are measured, and at which kept counts.

A latency profile is the set of measured latency curves of a model. Groups with the same geometry share one curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateurs.errors import RecipeError
from secateurs.numerics.low_rank import break_even
from secateurs.structure.cost import matrix_shape
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group, Structure

__all__ = ["PlannedCurve", "ProfilePlan", "measured_units", "plan_profile"]

FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Fractions of full size at which a curve of many narrow units is measured.

One unit, the first multiple and full size are measured in addition.
"""

PROBED = (1, 2, 4, 8, 16, 32, 64)
"""Alignments that are tried when the free multiple is measured."""

_VARYING = {"layer_idx", "training", "in_features", "out_features", "nx", "nf"}
"""Module fields that may differ between two groups with the same latency."""


@dataclass(frozen=True)
class PlannedCurve:
    """One curve to be measured.

    Args:
        group: group that is measured, the largest one that shares the curve.
        units: kept counts to measure, ascending, without 0.
        multiple: multiple to which widths are snapped.
        probe: widths that are timed in addition to measure the free multiple; empty if it is not measured.
        max_factored_rank: see ``LatencyCurve``.
    """

    group: Group
    units: tuple[int, ...]
    multiple: int
    probe: tuple[int, ...] = ()
    max_factored_rank: int = 0

    @property
    def matrix(self) -> str:
        """Path of the one matrix whose ranks or inputs are cut; empty for heads and neurons, which cut several."""
        return self.group.product or (self.group.output_projection if self.group.kind is Kind.INPUT else "")


@dataclass(frozen=True)
class ProfilePlan:
    """The curves to be measured on a model.

    Args:
        curves: curve name -> planned curve.
        groups: group name -> curve name.
    """

    curves: Mapping[str, PlannedCurve]
    groups: Mapping[str, str]


def plan_profile(
    model: nn.Module, structure: Structure, points: Mapping[Kind, Sequence[int]], multiple: int, probe: bool
) -> ProfilePlan:
    """Plan the curves of a model. Groups with the same geometry share a curve, measured on the largest of them.

    Args:
        model: model that the structure describes.
        structure: groups that need a curve.
        points: kind -> kept counts to measure, in place of ``measured_units``.
        multiple: multiple to which widths are snapped; heads are not snapped.
        probe: whether to plan also the widths from which the free multiple is measured.

    Raises:
        RecipeError: a group does not belong to a single layer.
    """
    shapes: dict[Any, list[Group]] = {}
    for group in structure:
        if group.kind is Kind.HIDDEN or not group.layer:
            raise RecipeError(
                f"group {group.name} ({group.kind}) does not belong to a single layer, so it has no latency curve; "
                "use a sparsity target"
            )
        shapes.setdefault(_geometry(model, group), []).append(group)
    curves: dict[str, PlannedCurve] = {}
    names: dict[str, str] = {}
    for members in shapes.values():
        largest = max(members, key=lambda group: group.size)
        kind = largest.kind
        number = 1 + sum(curve.group.kind is kind for curve in curves.values())
        name = str(kind) if number == 1 else f"{kind}.{number}"
        step = 1 if kind is Kind.HEAD else multiple
        top = _max_factored_rank(model, largest)
        units = measured_units(kind, largest.size, step, points.get(kind), max_factored_rank=top)
        start = largest.size // 2 // 128 * 128
        can_probe = probe and kind is Kind.INTERMEDIATE and start > 0 and start + 128 <= largest.size
        widths = (start, *(start + part for part in PROBED), start + 128) if can_probe else ()
        curves[name] = PlannedCurve(largest, units, step, widths, top)
        names |= {group.name: name for group in members}
    return ProfilePlan(curves, {group.name: names[group.name] for group in structure})


def measured_units(
    kind: Kind, size: int, multiple: int, chosen: Sequence[int] | None = None, *, max_factored_rank: int = 0
) -> tuple[int, ...]:
    """Kept counts at which a curve is measured, ascending, without 0 and with ``size``.

    Heads are measured at powers of two, and at one more count in the middle of the last interval if it is wide. Neurons
    and ranks are measured at one unit, at the first multiple, and at fixed fractions of full size that are snapped to the
    multiple. For ranks these are fractions of ``max_factored_rank``, because all higher ranks cost the same.

    Args:
        kind: kind of the group.
        size: units of the group at full size.
        multiple: multiple to which widths are snapped.
        chosen: counts to measure in place of the rule; counts outside ``1 .. size - 1`` are ignored.
        max_factored_rank: see ``LatencyCurve``.

    >>> measured_units(Kind.HEAD, 12, 8), measured_units(Kind.INTERMEDIATE, 1536, 8)
    ((1, 2, 4, 8, 12), (1, 8, 48, 96, 192, 384, 768, 1152, 1536))
    """
    top = max_factored_rank or size
    if chosen is not None:
        return tuple(sorted({unit for unit in chosen if 0 < unit < size} | {top, size}))
    if kind is Kind.HEAD:
        powers = [2**i for i in range(size.bit_length()) if 2**i < size]
        middle = [(powers[-1] + size) // 2] if powers and 3 * (size - powers[-1]) > size else []
        return tuple(sorted({*powers, *middle, size}))
    snapped = {max(1, round(top * fraction / multiple)) * multiple for fraction in FRACTIONS}
    return tuple(sorted({unit for unit in {1, multiple, *snapped} if unit < top} | {top, size}))


def _geometry(model: nn.Module, group: Group) -> Any:
    """Hashable key of the latency of a group: two groups with one key cost the same at the same kept count.

    The key does not depend on the present sizes of the groups.
    """
    if group.kind in (Kind.RANK, Kind.INPUT):  # the place of the matrix in the model does not matter
        bias = getattr(model.get_submodule(group.product or group.output_projection), "bias", None) is not None
        return (
            group.kind,
            bool(group.instead_of),
            tuple((cut.dim, shape) for cut, shape in _shapes_without_units(model, group)),
            bias,
        )
    start = len(group.layer) + 1
    cuts = [(cut.parameter[start:], cut.dim, cut.width, shape) for cut, shape in _shapes_without_units(model, group)]
    block = model.get_submodule(group.block)
    sizes = {path.rpartition(".")[2] for path in group.attributes} | _VARYING
    fields = tuple(
        sorted(
            (name, repr(value))
            for name, value in vars(block).items()
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and name not in sizes
        )
    )
    modules = (group.layer, group.block, group.output_projection, *group.norms)
    classes = tuple(type(model.get_submodule(path)).__qualname__ for path in modules)
    return group.kind, tuple(cuts), classes, fields


def _shapes_without_units(model: nn.Module, group: Group) -> list[tuple[Cut, tuple[int, ...]]]:
    """Each cut of a group with the shape that its parameter has if no unit of the group is left."""
    found = []
    if group.instead_of:  # the matrix has no factors yet
        rows, columns = matrix_shape(model, group.product)
        return list(zip(group.cuts, ((0, columns), (rows, 0)), strict=True))
    for cut in group.cuts:
        shape = list(model.get_parameter(cut.parameter).shape)
        shape[cut.dim] -= sum(
            other.width * group.size for other in group.cuts if (other.parameter, other.dim) == (cut.parameter, cut.dim)
        )
        found.append((cut, tuple(shape)))
    return found


def _max_factored_rank(model: nn.Module, group: Group) -> int:
    """Highest rank at which a pair of factors stays a pair; 0 for other groups, and if the pair stays one at any rank."""
    if not group.product:
        return 0
    (_, first), (_, second) = _shapes_without_units(model, group)
    top = break_even(max(first), max(second))
    return top if top < group.size else 0
