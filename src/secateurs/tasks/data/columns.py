"""Choice of the columns of a data set, and reading of text columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.bad_rows import place, skip_without
from secateurs.tasks.data.list_cells import as_list, lists_or_texts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "NO_LABELS",
    "TextColumns",
    "check_label",
    "find_column",
    "find_label",
    "find_texts",
    "first_of_pair",
    "parallel_column",
    "skip_empty",
    "texts_of",
]

PAIRS = (  # names of columns that hold a pair of texts; the first pair that exists is used
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("anchor", "positive"),
    ("query", "positive"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
TEXTS = (
    *("text", "sentence", "content", "question", "query", "review", "document", "passage", "description"),
    *("utterance", "claim", "abstract", "context", "prompt", "sentence1", "premise", "title", "tokens", "words"),
    *("comment_text", "comment", "tweet", "message", "body"),
)
LABELS = ("label", "labels", "score", "intent", "class", "category", "target", "sentiment", "similarity_score", "gold")

NO_LABELS = "none"
"""Given as the label column, it means that labels are ignored."""


@dataclass(frozen=True)
class TextColumns:
    """Column of the text and, for pairs of texts, column of the second text."""

    text: str
    text_pair: str | None


def find_texts(columns: Columns, rows: Dataset, source: str) -> TextColumns:
    """Choose the text columns: the given names, else a usual pair, else a usual single name, else the only column.

    Args:
        columns: names given by the user.
        rows: data set.
        source: name of the data set in error messages.

    Raises:
        DataError: a given column does not exist, or no column is recognised.
    """
    there = list(rows.column_names)
    for role in ("text", "text_pair"):
        _check(getattr(columns, role), role, there, source)
    if columns.text is not None:
        return TextColumns(columns.text, columns.text_pair)
    if columns.text_pair is not None:
        raise DataError(f"columns: text_pair {columns.text_pair!r} needs text as well; columns: {', '.join(there)}")
    for text, pair in PAIRS:
        if text in there and pair in there:
            return TextColumns(text, pair)
    for name in TEXTS:
        if name in there:
            return TextColumns(name, None)
    if len(there) == 1:
        return TextColumns(there[0], None)
    nested = [name for name in there if len(rows) and isinstance(rows[0][name], dict)]
    hint = f" ({', '.join(nested)} holds fields: write them as columns of their own)" if nested else ""
    raise DataError(f"no text column is recognised in {source}; name one of its columns: {', '.join(there)}{hint}")


def first_of_pair(columns: Columns, rows: Dataset, source: str) -> str | None:
    """The column of the first text of a pair, such as the query of a reranker; ``None`` if rows hold single texts.

    Args:
        columns: names given by the user.
        rows: data set.
        source: name of the data set in error messages.
    """
    found = find_texts(columns, rows, source)
    return found.text if found.text_pair is not None else None


def find_column(given: str | None, role: str, usual: Sequence[str], rows: Dataset, source: str) -> str:
    """Choose a column: the given name, otherwise the first usual name that exists.

    Args:
        given: name given by the user, or ``None``.
        role: field of ``Columns`` in which the name was given.
        usual: usual names, the preferred one first.
        rows: data set.
        source: name of the data set in error messages.

    Raises:
        DataError: the given column does not exist, or no column has a usual name.
    """
    there = list(rows.column_names)
    _check(given, role, there, source)
    found = given or next((name for name in usual if name in there), None)
    if found is None:
        raise DataError(
            f"{source} has no column {' or '.join(repr(name) for name in usual)}; name the column to use as "
            f"{role}; its columns are {', '.join(there)}"
        )
    return found


def find_label(columns: Columns, rows: Dataset, usual: Sequence[str] = LABELS) -> str | None:
    """Choose the label column: the given name, or else a usual name; ``None`` if this split has no such column."""
    names = [columns.label] if columns.label is not None else usual
    return next((name for name in names if name in rows.column_names), None)


def check_label(columns: Columns, splits: dict[str, Dataset], source: str) -> None:
    """Check that the given label column, if any, exists in some split. ``NO_LABELS`` need not exist.

    Raises:
        DataError: no split has the column.
    """
    there = sorted({name for rows in splits.values() for name in rows.column_names})
    if columns.label != NO_LABELS:
        _check(columns.label, "label", there, source)


def _check(name: str | None, role: str, there: list[str], source: str) -> None:
    if name is not None and name not in there:
        raise DataError(f"{source} has no column {name!r} (given as {role}); its columns are {', '.join(there)}")


def parallel_column(rows: Dataset, words: str, others: Sequence[str]) -> str | None:
    """The first column with a list of as many elements as a row has words, in each of the first rows.

    Args:
        rows: rows of a split.
        words: column of lists of words, or of texts that are divided at white space.
        others: columns to search.
    """
    head = rows[:100]
    counts = [
        len(listed) if (listed := as_list(value)) is not None else len(value.split()) if isinstance(value, str) else -1
        for value in head[words]
    ]
    for name in others:
        lists = map(as_list, head[name])
        if all(tags is not None and len(tags) == count for tags, count in zip(lists, counts, strict=True)):
            return name
    return None


def skip_empty(splits: dict[str, Dataset], columns: Columns, source: str) -> dict[str, Dataset]:
    """Skip the rows without a text, or without a label where others have one, if a split has few of them.

    Args:
        splits: rows by the name of their split, in the order of their files.
        columns: names given by the user.
        source: name of the data set in log lines.
    """

    def used(rows: Dataset) -> list[str]:
        try:
            found = find_texts(columns, rows, source)
        except DataError:  # raised again if this split is used
            return []
        return [name for name in (found.text, found.text_pair, find_label(columns, rows)) if name is not None]

    return skip_without(splits, used, source)


def texts_of(rows: Dataset, column: str, source: str) -> list[str]:
    """Read a column of texts. Lists of tokens or sentences are joined with blanks.

    Raises:
        DataError: a row is empty, or holds neither a text nor a list of texts.
    """
    values = lists_or_texts(rows[column][:], f"column {column!r} of {source}")
    for index, value in enumerate(values):
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            values[index] = " ".join(value)
        elif not isinstance(value, str):
            empty = value is None or value != value
            what = "has no text" if empty else f"holds {type(value).__name__}, not text"
            raise DataError(f"{place(rows, index, source, column)} {what}; drop or repair such rows")
    return values
