"""The kept counts of a model as a table: one row per layer, one column per kind of sub-block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from secateurs.report.formatting import join_with_and, thousands
from secateurs.report.values import Kept

__all__ = ["PLURALS", "KeptMap", "kept_map", "kept_summary"]

PLURALS = {
    "head": "heads",
    "intermediate": "intermediate units",
    "hidden": "hidden units",
    "rank": "ranks",
    "input": "inputs",
}
"""Kind of unit -> its name on the page."""


@dataclass(frozen=True)
class KeptMap:
    """Kept counts in rows and columns.

    Args:
        row_heading: heading of the column of row names, e.g. ``"layer"``.
        columns: names of the sub-blocks, e.g. ``("heads", "intermediate")``.
        rows: name of the row -> its cells, in the order of ``columns``; ``None`` where a row has no such group.
    """

    row_heading: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Kept | None, ...]]


def kept_map(kept: Mapping[str, Kept]) -> KeptMap:
    """Arrange groups by name: ``layer.3.heads`` is row 3, column heads.

    Args:
        kept: group name -> kept count of the group.

    Returns:
        The table. Groups without a layer number are in the row ``whole model``.
    """
    found: dict[str, dict[str, Kept]] = {}
    for name, value in kept.items():
        match = re.match(r"(.*?\d+)\.(.+)", name)
        row, column = match.groups() if match else ("whole model", name)
        found.setdefault(row, {})[column] = value
    columns = tuple(dict.fromkeys(column for cells in found.values() for column in cells))
    stems = {re.sub(r"\.?\d+$", "", row) for row in found}
    stem = next(iter(stems)) if len(stems) == 1 and all(re.search(r"\d$", row) for row in found) else None
    rows = {
        (row[len(stem) :].lstrip(".") if stem is not None else row.replace(".", " ")): tuple(
            cells.get(column) for column in columns
        )
        for row, cells in found.items()
    }
    return KeptMap((stem or "place").replace(".", " ") if rows else "place", columns, rows)


def kept_summary(kept: Mapping[str, Kept]) -> str:
    """The sums over all groups: ``73 of 144 heads and 9,210 of 36,864 intermediate units; 2 sub-blocks removed``."""
    totals: dict[str, tuple[int, int]] = {}
    for value in kept.values():
        left, size = totals.get(value.kind, (0, 0))
        totals[value.kind] = (left + value.kept, size + value.size)
    removed = sum(value.kept == 0 for value in kept.values())
    text = join_with_and(
        [f"{thousands(left)} of {thousands(size)} {PLURALS[kind]}" for kind, (left, size) in totals.items()]
    )
    return text + (f"; {removed} sub-block{'s' if removed != 1 else ''} removed" if removed else "")
