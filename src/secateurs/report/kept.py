"""What was kept, arranged for reading: one row a layer, one column a kind of sub-block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from secateurs.report.figures import listed, shape
from secateurs.report.values import Kept

__all__ = ["KeptMap", "kept_map", "kept_summary"]

PLURALS = {
    "head": "heads",
    "intermediate": "intermediate units",
    "hidden": "hidden units",
    "rank": "ranks",
    "input": "inputs",
}


@dataclass(frozen=True)
class KeptMap:
    """A table of cells.

    Args:
        places: what the rows are, e.g. ``"layer"``.
        columns: sub-blocks, e.g. ``("heads", "intermediate")``.
        rows: name of the row -> its cells, in the order of ``columns``; ``None`` where a row has no such group.
    """

    places: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Kept | None, ...]]


def kept_map(kept: Mapping[str, Kept]) -> KeptMap:
    """Arrange groups by name: ``layer.3.heads`` is row 3, column heads."""
    found: dict[str, dict[str, Kept]] = {}
    for name, value in kept.items():
        match = re.match(r"(.*?\d+)\.(.+)", name)
        place, column = match.groups() if match else ("whole model", name)
        found.setdefault(place, {})[column] = value
    columns = tuple(dict.fromkeys(column for cells in found.values() for column in cells))
    stems = {re.sub(r"\.?\d+$", "", place) for place in found}
    single = next(iter(stems)) if len(stems) == 1 and all(re.search(r"\d$", place) for place in found) else None
    rows = {
        (place[len(single) :].lstrip(".") if single is not None else place.replace(".", " ")): tuple(
            cells.get(column) for column in columns
        )
        for place, cells in found.items()
    }
    return KeptMap((single or "place").replace(".", " ") if rows else "place", columns, rows)


def kept_summary(kept: Mapping[str, Kept]) -> str:
    """``73 of 144 heads, 9,210 of 36,864 intermediate units; 2 sub-blocks removed whole``."""
    totals: dict[str, tuple[int, int]] = {}
    for value in kept.values():
        left, size = totals.get(value.kind, (0, 0))
        totals[value.kind] = (left + value.kept, size + value.size)
    gone = sum(value.kept == 0 for value in kept.values())
    text = listed([f"{shape(left)} of {shape(size)} {PLURALS[kind]}" for kind, (left, size) in totals.items()])
    return text + (f"; {gone} sub-block{'s' if gone != 1 else ''} removed whole" if gone else "")
