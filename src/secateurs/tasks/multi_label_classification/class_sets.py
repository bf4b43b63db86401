"""The labels of multi-label classification: lists of classes, or lists of 0 and 1, become one 0 or 1 per output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError
from secateurs.tasks.base import Columns, Understood
from secateurs.tasks.data.classes import WITHOUT_LABELS, DataClass, ModelClasses, class_of, declared_names
from secateurs.tasks.data.columns import find_label
from secateurs.tasks.data.list_cells import as_list
from secateurs.tasks.data.understood import about_classes

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ClassSets"]


class ClassSets:
    """Conversion of the label column of a data set to one 0 or 1 per output of the model.

    ``prepare`` is called before ``read``.

    Args:
        classes: outputs of the model.
        columns: names of the columns.
        source: name of the data set in error messages.
    """

    def __init__(self, classes: ModelClasses, columns: Columns, source: str) -> None:
        self.classes, self.columns, self.source = classes, columns, source
        self.outputs: dict[DataClass, int] = {}
        self.flags = False
        """Whether the lists hold one 0 or 1 per output; otherwise they hold the classes of the text."""

    def present(self, rows: Dataset) -> bool:
        """Whether a split has labels. An empty list is a label: the text has no class."""
        column = find_label(self.columns, rows)
        return column is not None and not all(map(_is_hidden, rows[column]))

    def labelled(self, rows: Dataset) -> Dataset:
        """The rows with a label, or all rows if none has one."""
        column = find_label(self.columns, rows)
        if column is None or not self.present(rows):
            return rows
        kept = [index for index, value in enumerate(rows[column]) if not _is_hidden(value)]
        return rows if len(kept) == len(rows) else rows.select(kept)

    def prepare(self, parts: Mapping[str, Dataset]) -> list[Understood]:
        """Decide which class of the data is which output of the model.

        Args:
            parts: the rows that are used, by the name of their split; all rows have labels, or none in a split has.

        Returns:
            What was decided, for the user.

        Raises:
            DataError: the labels do not fit the model, or it would have to be guessed which class is which.
        """
        labelled = {name: rows for name, rows in parts.items() if self.present(rows)}
        if not labelled:
            return []
        first = next(iter(labelled.values()))
        column = self._column(first)
        where = f"column {column!r} of {self.source}"
        lists = {name: self._lists(rows) for name, rows in labelled.items()}
        every = [each for values in lists.values() for each in values]
        self.flags = declared_names(first, column) is None and self._are_flags(every, where)
        if self.flags:
            found = [DataClass(name, index, named=True) for index, name in enumerate(self.classes.names)]
            self.outputs = {each: index for index, each in enumerate(found)}
            counts = {
                name: Counter(found[at] for each in values for at, value in enumerate(each) if value)
                for name, values in lists.items()
            }
        else:
            counts = {
                name: Counter(each for row in self._classes(rows) for each in row) for name, rows in parts.items()
            }
            used = {each for count in counts.values() for each in count}
            self.outputs = self.classes.match(used, self.columns.classes, where)
        form = "one 0 or 1 per class, in the order of the model's classes" if self.flags else "lists of classes"
        without = ", ".join(
            f"{sum(not any(each) for each in self.read(rows))} {name}" for name, rows in labelled.items()
        )
        return [
            ("labels", f"{form}; a text may have several, or none (without a class: {without})"),
            *about_classes(self.outputs, counts, self.classes),
        ]

    def read(self, rows: Dataset) -> list[list[float]]:
        """The labels of a split: one 0 or 1 per output of the model.

        Args:
            rows: rows of the split, all with a label.
        """
        if self.flags:
            return [[float(value) for value in each] for each in self._lists(rows)]
        chosen = [{self.outputs[each] for each in row} for row in self._classes(rows)]
        return [[float(index in own) for index in range(len(self.classes))] for own in chosen]

    def fits(self, rows: Dataset, column: str) -> bool:
        """Whether a column that has no usual name could hold the labels: lists of classes of the model, or of 0 and 1.

        Args:
            rows: rows of a split.
            column: column of the split.
        """
        lists = [as_list(value) for value in rows[column] if not _is_hidden(value)]
        if not lists or None in lists or not any(lists):
            return False
        declared = declared_names(rows, column)
        found = {class_of(value, declared) for each in lists for value in each or ()}
        try:
            self.classes.match({each for each in found if each is not None}, self.columns.classes, column)
        except DataError:
            return False
        return None not in found

    def _are_flags(self, lists: list[list[Any]], where: str) -> bool:
        """Whether all lists have one 0 or 1 per output.

        Raises:
            DataError: the lists may be this, or classes of the texts.
        """
        width = len(self.classes)
        if not all(len(each) == width and all(_is_flag(value) for value in each) for each in lists):
            return False
        if all(sorted(each) == list(range(width)) for each in lists):
            raise DataError(
                f"{where} holds {lists[0]} in every row, which is a list of classes as well as one 0 or 1 per class; "
                f"choose: a --label-column with names of classes; {WITHOUT_LABELS}"
            )
        return True

    def _classes(self, rows: Dataset) -> list[list[DataClass]]:
        """The classes of every row; empty if no row has a label."""
        if not self.present(rows):
            return []
        column = self._column(rows)
        declared = declared_names(rows, column)
        found: list[list[DataClass]] = []
        for value in self._lists(rows):
            classes = [class_of(each, declared) for each in value]
            if None in classes:
                wrong = value[classes.index(None)]
                raise DataError(
                    f"column {column!r} of {self.source} holds {wrong!r}, which is no class; {WITHOUT_LABELS}"
                )
            found.append([each for each in classes if each is not None])
        return found

    def _lists(self, rows: Dataset) -> list[list[Any]]:
        column = self._column(rows)
        lists: list[list[Any]] = []
        for value in rows[column][:]:
            each = as_list(value)
            if each is None:
                raise DataError(
                    f"column {column!r} of {self.source} holds {value!r}, not a list; choose another --label-column with "
                    "lists of classes or of 0 and 1; one column of 0 and 1 per class, named as the model names it; --task "
                    f"text-classification, if a text has one class; or: {WITHOUT_LABELS}"
                )
            lists.append(each)
        return lists

    def _column(self, rows: Dataset) -> str:
        column = find_label(self.columns, rows)
        assert column is not None
        return column


def _is_flag(value: Any) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def _is_hidden(value: Any) -> bool:
    """Whether a row has no label: no value, or a list of -1 alone."""
    each = as_list(value)
    return value is None or value != value or (bool(each) and all(part == -1 for part in each or ()))
