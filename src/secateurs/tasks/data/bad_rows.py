"""Rows that cannot be used: a few are skipped and counted, many are an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["few", "place", "skip_rows", "skip_without"]

logger = logging.getLogger(__name__)

MAX_SHARE = 0.01
"""Maximum share of bad rows that is skipped."""


def place(rows: Dataset, index: int, source: str, column: str | None = None) -> str:
    """Where a row is: its line, if the file has lines, otherwise its number in its split, counted from 0.

    ``datasets`` keeps the original numbers of shuffled and selected rows.

    Args:
        rows: rows of a split, possibly shuffled or selected.
        index: index of the row in ``rows``.
        source: name of the split.
        column: column that the message is about, or ``None``.
    """
    indices: Any = rows._indices  # datasets has no public access to it
    original = indices.column(0)[index].as_py() if indices is not None else index
    places = getattr(rows.info, "places", None)
    if places is not None:
        return places[original] + (f", column {column!r}," if column is not None else "")
    return f"row {original} of " + (f"column {column!r} of {source}" if column is not None else source)


def few(bad: int, rows: int) -> bool:
    """Whether so small a number of bad rows is skipped.

    Args:
        bad: number of bad rows.
        rows: number of all rows.
    """
    return bad <= MAX_SHARE * rows


def skip_rows(rows: Dataset, bad: Sequence[int], what: str, source: str) -> Dataset:
    """The rows without a few bad ones, with a log line; all rows if the bad ones are not few.

    Args:
        rows: rows of a split.
        bad: indices of the bad rows, ascending.
        what: what is wrong with them, for the log line.
        source: name of the split.
    """
    if not bad or not few(len(bad), len(rows)):
        return rows
    first = place(rows, bad[0], source)
    logger.warning("%s: %d of %d rows skipped, which %s (the first is %s)", source, len(bad), len(rows), what, first)
    return rows.select(sorted(set(range(len(rows))) - set(bad)))


def skip_without(
    splits: dict[str, Dataset],
    columns: Callable[[Dataset], Sequence[str]],
    source: str,
    *,
    blank: bool = False,
) -> dict[str, Dataset]:
    """Skip rows that have no value in some column, where these are few rows of a split.

    Args:
        splits: rows by the name of their split, in the order of their files.
        columns: function that chooses the columns of a split.
        source: name of the data set in log lines.
        blank: whether blank texts and empty lists are missing values too.
    """
    kept: dict[str, Dataset] = {}
    for split, rows in splits.items():
        for name in dict.fromkeys(columns(rows)):
            rows = skip_rows(rows, _missing(rows, name, blank), f"have no {name!r}", f"{source} ({split})")
        kept[split] = rows
    return kept


def _missing(rows: Dataset, column: str, blank: bool) -> list[int]:
    """Indices of the rows without a value, found without making Python objects of the others."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made at run time

    table: Any = rows.select_columns([column]).with_format("arrow")[:]
    values = table.column(0)
    empty = pc.is_null(values, nan_is_null=True)
    if blank and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True))
    if blank and (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.list_value_length(values), 0), True))
    return pc.indices_nonzero(empty).to_pylist()
