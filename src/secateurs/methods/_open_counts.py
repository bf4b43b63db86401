"""How many units of each group learned gates leave open within a budget."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from secateurs.errors import TargetUnreachable
from secateurs.latency_table import LatencyTable
from secateurs.stages.gates import Gates
from secateurs.structure import Group, Kind, Structure
from secateurs.target import Budget

__all__ = ["open_counts"]

FAR = 40.0
"""A shift of ``log_alpha`` that opens or closes every gate."""


def open_counts(gates: Gates, budget: Budget, structure: Structure) -> dict[str, int]:
    """Those that are rather open than shut (or as many as are expected to be, if the gates are counted so), by one common
    shift of all gates with which the cost just meets the limit.

    Blocks that their coarse gate closes stay closed, unless all that is left is far below the limit: then the fewest
    of them, the most open first, stay open. Widths are rounded to the free multiple of a latency table, and a rank that costs
    as much as its matrix is the matrix: two factors of it would be slower still.

    Raises:
        TargetUnreachable: the limit is below what no cut can remove.
    """
    multiples = {group.name: 1 if group.kind is Kind.HEAD else budget.cost.multiple(group.name) for group in structure}

    whole = {group.name: _whole(group, budget.cost) for group in structure if group.product}

    def counts(shift: float, reopened: int) -> dict[str, int]:
        found = gates.counts(shift, reopened, rather=gates.rather)
        snapped = {
            name: min(structure[name].size, round(found[name] / multiple) * multiple)
            for name, multiple in multiples.items()
        }
        return {
            **found,
            **snapped,
            **{name: structure[name].size for name, least in whole.items() if snapped[name] >= least},
        }

    def fits(shift: float, reopened: int) -> bool:
        return float(budget.cost(counts(shift, reopened))) <= budget.limit

    if not fits(-FAR, 0):
        largest = budget.cost.largest_speedup if isinstance(budget.cost, LatencyTable) else 1.0
        raise TargetUnreachable(f"the budget of {budget.limit:.4g} is less than what no cut can remove", largest)
    reopened = 0
    while fits(FAR, reopened) and reopened < len(gates.closed()):
        reopened += 1
    low, high = -FAR, FAR
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle, reopened) else (low, middle)
    return counts(low, reopened)


def _whole(group: Group, cost: Any) -> int:
    """The fewest components that cost as much as all of them."""
    full = cost.group_cost(group.name, group.size)
    return bisect_left(range(group.size), full, key=lambda kept: cost.group_cost(group.name, kept))
