"""``open_counts``: how many units of each group learned gates leave open within a budget."""

from __future__ import annotations

from bisect import bisect_left

from secateurs.errors import TargetUnreachable
from secateurs.gates.gates import Gates
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import Cost
from secateurs.structure.cut import Kind
from secateurs.structure.structure import Group, Structure
from secateurs.structure.target import Budget

__all__ = ["open_counts"]

EXTREME = 40.0
"""A shift of ``log_alpha`` that opens or closes every gate."""


def open_counts(gates: Gates, budget: Budget, structure: Structure) -> Allocation:
    """Find one offset to all fine ``log_alpha`` such that the kept units just fit the budget.

    Groups whose coarse gate is closed stay closed. If the open groups fit the budget with all their units, closed groups are
    reopened one by one, the highest open probability first, until they do not. Widths are rounded to the free multiple of a
    latency table. A rank that costs as much as its matrix becomes the full rank: two factors of it would be slower.

    Args:
        gates: the learned gates.
        budget: cost and limit.
        structure: the groups.

    Raises:
        TargetUnreachable: the limit is below what no cut can remove.
    """
    multiples = {group.name: 1 if group.kind is Kind.HEAD else budget.cost.multiple(group.name) for group in structure}
    full_rank_from = {group.name: _full_rank_from(group, budget.cost) for group in structure if group.product}

    def counts(shift: float, reopened: int) -> Allocation:
        found = gates.counts(shift, reopened, threshold_at_half=gates.threshold_at_half)
        snapped = {
            name: min(structure[name].size, round(found[name] / multiple) * multiple)
            for name, multiple in multiples.items()
        }
        return {
            **found,
            **snapped,
            **{name: structure[name].size for name, least in full_rank_from.items() if snapped[name] >= least},
        }

    def fits(shift: float, reopened: int) -> bool:
        return float(budget.cost(counts(shift, reopened))) <= budget.limit

    if not fits(-EXTREME, 0):
        raise TargetUnreachable(
            f"the budget of {budget.limit:.4g} is less than what no cut can remove", budget.cost.largest_speedup
        )
    reopened = 0
    while fits(EXTREME, reopened) and reopened < len(gates.closed()):
        reopened += 1
    low, high = -EXTREME, EXTREME
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle, reopened) else (low, middle)
    return counts(low, reopened)


def _full_rank_from(group: Group, cost: Cost) -> int:
    """The smallest rank that costs as much as the full rank."""
    full = cost.group_cost(group.name, group.size)
    return bisect_left(range(group.size), full, key=lambda kept: cost.group_cost(group.name, kept))
