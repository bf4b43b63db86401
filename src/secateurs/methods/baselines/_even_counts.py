"""``even_counts``: the same fraction of every group. Methods without a search meet a budget this way."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from secateurs.errors import TargetUnreachable
from secateurs.structure.allocation import Allocation
from secateurs.structure.cut import Kind
from secateurs.structure.structure import Group, Structure
from secateurs.structure.target import Budget

__all__ = ["even_counts"]


def even_counts(
    structure: Structure,
    budget: Budget,
    upper: Mapping[str, int] | None = None,
    dense_sizes: Mapping[str, int] = MappingProxyType({}),
) -> Allocation:
    """Find the largest common fraction whose cost is within the budget; widths are rounded to the multiple of the cost.

    What the rounding leaves of the budget goes to the groups in turn, one step each, first layers first.

    Args:
        structure: the groups.
        budget: cost and limit.
        upper: upper limit on kept units per group, where it is below the size. The full size is kept only if all groups
            fit at full size.
        dense_sizes: group name -> units that the fraction refers to, if the model was pruned before; others refer to their
            upper limit.

    Raises:
        TargetUnreachable: even without any unit the cost is above the limit.
    """
    upper = {**structure.sizes, **(upper or {})}
    full = {**upper, **{name: size for name, size in dense_sizes.items() if name in upper}}

    def within(counts: Mapping[str, int]) -> bool:
        return float(budget.cost(counts)) <= budget.limit

    if within(structure.sizes):
        return structure.sizes
    if not within(_counts(structure, budget, upper, full, 0.0)):
        timed = budget.cost.unit == "ms"
        raise TargetUnreachable(
            f"{budget.limit:.2f} {'ms is' if timed else 'parameters are'} less than the {budget.cost.fixed:.2f} "
            f"{'ms ' if timed else ''}no cut can remove",
            budget.cost.largest_speedup,
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if within(_counts(structure, budget, upper, full, middle)) else (low, middle)
    counts = _counts(structure, budget, upper, full, low)
    for group in structure:
        more = {**counts, group.name: min(upper[group.name], counts[group.name] + _step(group, budget))}
        if within(more):
            counts = more
    return counts


def _step(group: Group, budget: Budget) -> int:
    return 1 if group.kind is Kind.HEAD else budget.cost.multiple(group.name)


def _counts(
    structure: Structure, budget: Budget, upper: Mapping[str, int], full: Mapping[str, int], fraction: float
) -> Allocation:
    counts = {}
    for group in structure:
        step = _step(group, budget)
        counts[group.name] = min(upper[group.name], round(fraction * full[group.name] / step) * step)
    return counts
