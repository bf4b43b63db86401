"""Which columns of a data set hold what, and their content as plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateurs.errors import DataError
from secateurs.tasks import Columns

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["TextColumns", "check_label", "find_column", "find_label", "find_texts", "texts_of"]

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("anchor", "positive"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
TEXTS = (
    *("text", "sentence", "content", "question", "query", "review", "document", "passage", "description"),
    *("utterance", "claim", "abstract", "context", "prompt", "sentence1", "premise", "title", "tokens", "words"),
)
LABELS = ("label", "labels", "score", "intent", "class", "category", "target", "sentiment", "similarity_score", "gold")


@dataclass(frozen=True)
class TextColumns:
    """The column with the text and, where rows are pairs, the one with the second text."""

    text: str
    text_pair: str | None


def find_texts(columns: Columns, rows: Dataset, source: str) -> TextColumns:
    """The text columns: those asked for, otherwise a usual pair, otherwise a usual single name, otherwise the only one.

    Raises:
        DataError: a column that was asked for does not exist, or none can be recognised.
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
    raise DataError(f"no text column is recognised in {source}; name one of its columns: {', '.join(there)}")


def find_column(given: str | None, role: str, usual: Sequence[str], rows: Dataset, source: str) -> str:
    """The column asked for, otherwise the first usual name there is.

    Args:
        given: the name asked for, if any.
        role: the field of ``Columns`` it was given as.
        usual: names, the best first.

    Raises:
        DataError: the column that was asked for does not exist, or there is none of the usual names.
    """
    there = list(rows.column_names)
    _check(given, role, there, source)
    found = given or next((name for name in usual if name in there), None)
    if found is None:
        raise DataError(
            f"{source} has no column {' or '.join(repr(name) for name in usual)}; name the one to use as {role} "
            f"out of its columns: {', '.join(there)}"
        )
    return found


def find_label(columns: Columns, rows: Dataset, usual: Sequence[str] = LABELS) -> str | None:
    """The label column: the one asked for, or a usual name; ``None`` where this split has no such column."""
    names = [columns.label] if columns.label is not None else usual
    return next((name for name in names if name in rows.column_names), None)


def check_label(columns: Columns, splits: dict[str, Dataset], source: str) -> None:
    """Raises:
    DataError: the label column that was asked for is in no split.
    """
    there = sorted({name for rows in splits.values() for name in rows.column_names})
    _check(columns.label, "label", there, source)


def _check(name: str | None, role: str, there: list[str], source: str) -> None:
    if name is not None and name not in there:
        raise DataError(f"{source} has no column {name!r} (given as {role}); its columns are {', '.join(there)}")


def texts_of(rows: Dataset, column: str, source: str) -> list[str]:
    """A column as texts; lists of tokens or sentences are joined by a blank.

    Raises:
        DataError: the column holds something else, or some row holds nothing.
    """
    values = rows[column][:]
    for index, value in enumerate(values):
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            values[index] = " ".join(value)
        elif not isinstance(value, str):
            empty = value is None or value != value
            what = "has no text" if empty else f"holds {type(value).__name__}, not text"
            raise DataError(f"row {index} of column {column!r} of {source} {what}; drop or repair such rows")
    return values
