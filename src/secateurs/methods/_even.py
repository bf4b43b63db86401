"""The same fraction of every group: how methods without a search meet a time budget."""

from __future__ import annotations

from secateurs.cost import LatencyTable
from secateurs.errors import TargetUnreachable
from secateurs.structure import Group, Kind, Structure
from secateurs.target import Budget

__all__ = ["even_counts"]


def even_counts(structure: Structure, budget: Budget) -> dict[str, int]:
    """The largest common fraction whose predicted time is within the budget; widths snap as the table says.

    What the rounding leaves over goes to the groups in turn, one step each, first layers first.

    Raises:
        TargetUnreachable: nothing left is still too slow.
    """
    table = budget.cost
    assert isinstance(table, LatencyTable), "this method meets time budgets only"
    low, high = 0.0, 1.0
    if table(_counts(structure, table, 0.0)) > budget.limit:
        raise TargetUnreachable(
            f"{budget.limit:.2f} ms is less than the {table.fixed:.2f} ms no cut can remove", table.largest_speedup
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if table(_counts(structure, table, middle)) <= budget.limit else (low, middle)
    counts = _counts(structure, table, low)
    for group in structure:
        more = {**counts, group.name: min(group.size, counts[group.name] + _step(group, table))}
        if table(more) <= budget.limit:
            counts = more
    return counts


def _step(group: Group, table: LatencyTable) -> int:
    return 1 if group.kind is Kind.HEAD else table.curve(group.name).multiple


def _counts(structure: Structure, table: LatencyTable, fraction: float) -> dict[str, int]:
    counts = {}
    for group in structure:
        step = _step(group, table)
        counts[group.name] = min(group.size, round(fraction * group.size / step) * step)
    return counts
