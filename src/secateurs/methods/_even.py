"""The same fraction of every group: how methods without a search meet a time budget."""

from __future__ import annotations

from secateurs.cost import LatencyTable
from secateurs.errors import TargetUnreachable
from secateurs.methods._candidates import table_of
from secateurs.structure import Kind, Structure
from secateurs.target import Budget

__all__ = ["even_counts"]


def even_counts(structure: Structure, budget: Budget) -> dict[str, int]:
    """The largest common fraction whose predicted time is within the budget; widths snap as the table says.

    Raises:
        TargetUnreachable: nothing left is still too slow.
    """
    table = table_of(budget)
    low, high = 0.0, 1.0
    if table(_counts(structure, table, 0.0)) > budget.limit:
        raise TargetUnreachable(
            f"{budget.limit:.2f} ms is less than the {table.fixed:.2f} ms no cut can remove", table.largest_speedup
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if table(_counts(structure, table, middle)) <= budget.limit else (low, middle)
    return _counts(structure, table, low)


def _counts(structure: Structure, table: LatencyTable, fraction: float) -> dict[str, int]:
    counts = {}
    for group in structure:
        step = 1 if group.kind is Kind.HEAD else table.curve(group.name).multiple
        counts[group.name] = min(group.size, round(fraction * group.size / step) * step)
    return counts
