"""Data with one column of 0 and 1 per class, as in the toxicity data of Jigsaw: the columns become lists of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.bad_rows import place
from secateurs.tasks.data.classes import WITHOUT_LABELS, ModelClasses, listed
from secateurs.tasks.data.columns import find_label, find_texts
from secateurs.tasks.data.list_cells import as_list

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["JOINED", "join_class_columns"]

JOINED = "one column of 0 and 1 per class"
"""Name of the column of lists of classes that takes the place of the columns of the classes."""

MISSING = -1
"""Value of the columns in rows without labels (the rows of Jigsaw's test data that are not scored)."""


def join_class_columns(
    splits: dict[str, Dataset], classes: ModelClasses, columns: Columns, source: str
) -> dict[str, Dataset]:
    """Join the columns of the classes to one column ``JOINED`` of lists of declared classes.

    A list is ``None`` where a column has no value or ``MISSING``. Splits are returned as they are if a label column is
    given or has lists, or if no columns could be those of the classes. Splits without the columns have no labels.

    Args:
        splits: rows by the name of their split.
        classes: outputs of the model.
        columns: names of the columns, as given by the user.
        source: name of the data set in error messages.

    Raises:
        DataError: it would have to be guessed which columns are classes, or a value is neither 0 nor 1.
    """
    if columns.label is not None or any(_has_lists(rows, columns) for rows in splits.values()):
        return splits
    chosen: list[str] = []
    for rows in splits.values():
        chosen = chosen or (_class_columns(rows, classes, columns, source) if len(rows) else [])
    if not chosen:
        return splits
    joined: dict[str, Dataset] = {}
    for name, rows in splits.items():
        there = [column for column in chosen if column in rows.column_names]
        if there and len(there) < len(chosen):
            lost = [column for column in chosen if column not in there]
            raise DataError(f"the split {name!r} of {source} lacks columns of classes that others have: {listed(lost)}")
        joined[name] = _join(rows, chosen, f"{source} ({name})") if there else rows
    return joined


def _has_lists(rows: Dataset, columns: Columns) -> bool:
    label = find_label(columns, rows)
    return label is not None and any(as_list(value) is not None for value in rows[label])


def _class_columns(rows: Dataset, classes: ModelClasses, columns: Columns, source: str) -> list[str]:
    """The columns of the classes: those that have their names, or all columns of 0 and 1 if there is one per class.

    Which class is which is decided later, by the rules for declared classes: by name, or in order if the model does not
    name its classes or the user wants it.
    """
    found = find_texts(columns, rows, source)
    others = [name for name in rows.column_names if name not in (found.text, found.text_pair)]
    named = {name: index for name in others if (index := classes.find(name)) is not None}
    if named:
        lost = [name for index, name in enumerate(classes.names) if index not in named.values()]
        if lost or len(named) > len(classes):
            what = f"none has the name {listed(lost)}" if lost else "two of them have the same name, case aside"
            raise DataError(
                f"columns of {source} have names of classes of the model ({listed(named)}), but {what}; rename the "
                f"columns as the model names its classes ({listed(classes.names)}), or: {WITHOUT_LABELS}"
            )
        return list(named)
    flags = [name for name in others if _holds_flags(rows[name][:])]
    if len(flags) == len(classes):
        return flags
    if len(flags) > 1:
        raise DataError(
            f"{len(flags)} columns of {source} hold 0 and 1 ({listed(flags)}); the model has {len(classes)} classes "
            f"({listed(classes.names)}), and no column has the name of one; choose: name the columns as the model names "
            f"its classes; --label-column names a column with lists of classes; {WITHOUT_LABELS}"
        )
    return []


def _holds_flags(values: list[Any]) -> bool:
    there = [value for value in values if not _is_missing(value)]
    return bool(there) and all(isinstance(value, int | float) and value in (0, 1) for value in there)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or value == MISSING


def _join(rows: Dataset, chosen: list[str], source: str) -> Dataset:
    from datasets import ClassLabel, Features, List

    values = [rows[name][:] for name in chosen]
    lists: list[list[int] | None] = []
    for index, row in enumerate(zip(*values, strict=True)):
        wrong = next((at for at, value in enumerate(row) if not (_is_missing(value) or value in (0, 1))), None)
        if wrong is not None:
            raise DataError(
                f"{place(rows, index, source, chosen[wrong])} holds {row[wrong]!r}, neither 0 nor 1; repair it, or "
                f"choose another --label-column, or: {WITHOUT_LABELS}"
            )
        lists.append(None if any(map(_is_missing, row)) else [at for at, value in enumerate(row) if value])
    feature: Any = Features({JOINED: List(ClassLabel(names=chosen))})[JOINED]
    return rows.remove_columns(chosen).add_column(JOINED, lists, feature=feature)  # pyright: ignore[reportCallIssue]
