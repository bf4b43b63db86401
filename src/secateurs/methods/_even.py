"""The same fraction of every group: how methods without a search meet a budget."""

from __future__ import annotations

from collections.abc import Mapping

from secateurs.errors import TargetUnreachable
from secateurs.latency_table import LatencyTable
from secateurs.structure import Group, Kind, Structure
from secateurs.target import Budget

__all__ = ["even_counts"]


def even_counts(structure: Structure, budget: Budget, whole: Mapping[str, int] | None = None) -> dict[str, int]:
    """The largest common fraction whose cost is within the budget; widths snap as a latency table says.

    What the rounding leaves over goes to the groups in turn, one step each, first layers first.

    Args:
        structure: of the groups.
        budget: parameters or, by a latency table, milliseconds.
        whole: units that count as all of a group, where those are fewer than it has; more of them are never kept, unless
            everything is.

    Raises:
        TargetUnreachable: nothing left is still too much.
    """
    whole = {**structure.sizes, **(whole or {})}

    def within(counts: Mapping[str, int]) -> bool:
        return float(budget.cost(counts)) <= budget.limit

    if within(structure.sizes):
        return structure.sizes
    if not within(_counts(structure, budget, whole, 0.0)):
        timed = isinstance(budget.cost, LatencyTable)
        raise TargetUnreachable(
            f"{budget.limit:.2f} {'ms is' if timed else 'parameters are'} less than the {budget.cost.fixed:.2f} "
            f"{'ms ' if timed else ''}no cut can remove",
            budget.cost.largest_speedup if isinstance(budget.cost, LatencyTable) else 1.0,
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if within(_counts(structure, budget, whole, middle)) else (low, middle)
    counts = _counts(structure, budget, whole, low)
    for group in structure:
        more = {**counts, group.name: min(whole[group.name], counts[group.name] + _step(group, budget))}
        if within(more):
            counts = more
    return counts


def _step(group: Group, budget: Budget) -> int:
    timed = isinstance(budget.cost, LatencyTable) and group.kind is not Kind.HEAD and group.name in budget.cost.groups
    return budget.cost.curve(group.name).multiple if timed else 1  # pyright: ignore[reportAttributeAccessIssue]


def _counts(structure: Structure, budget: Budget, whole: Mapping[str, int], fraction: float) -> dict[str, int]:
    counts = {}
    for group in structure:
        step = _step(group, budget)
        counts[group.name] = min(whole[group.name], round(fraction * whole[group.name] / step) * step)
    return counts
