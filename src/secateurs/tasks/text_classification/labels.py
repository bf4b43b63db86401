"""The labels of single-label classification and of regression: values of a column become outputs of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks.base import Columns, Understood
from secateurs.tasks.data.classes import WITHOUT_LABELS, DataClass, ModelClasses, class_of, declared_names, listed
from secateurs.tasks.data.columns import find_label
from secateurs.tasks.data.understood import about_classes

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ClassLabels"]


class ClassLabels:
    """Conversion of the label column of a data set to class indices, or to scores if the model has one output.

    ``prepare`` is called before ``read``.

    Args:
        config: config of the model.
        columns: names of the columns.
        source: name of the data set in error messages.

    Raises:
        UnsupportedModelError: the model predicts several classes or several scores per text.
    """

    def __init__(self, config: Any, columns: Columns, source: str) -> None:
        problem = getattr(config, "problem_type", None)
        if problem == "multi_label_classification":
            raise UnsupportedModelError(
                f"the model solves {problem} with {config.num_labels} outputs; use --task multi-label-classification"
            )
        if problem == "regression" and config.num_labels != 1:
            raise UnsupportedModelError(
                f"the model solves {problem} with {config.num_labels} outputs; text_classification needs one class "
                "per text, or one score"
            )
        self.columns, self.source = columns, source
        self.scores = config.num_labels == 1
        self.classes = ModelClasses.of(config)
        self.outputs: dict[DataClass, int] = {}

    def present(self, rows: Dataset) -> bool:
        """Whether a split has labels. Labels that are all -1 or all empty count as hidden, as in the test splits of GLUE."""
        column = find_label(self.columns, rows)
        return column is not None and any(not _is_hidden(value) for value in rows[column])

    def labelled(self, rows: Dataset) -> Dataset:
        """The rows with a label. Rows without one are left out, unless no row has one.

        Besides empty values, -1 stands for a missing class, but only where that is sure: the data set names its classes,
        or the other values are all classes of the model. Elsewhere -1 could be a class of a negative sentiment.
        """
        column = find_label(self.columns, rows)
        if column is None or not self.present(rows):
            return rows
        values = rows[column][:]
        missing = _is_hidden if not self.scores and self._minus_one_is_missing(values, rows, column) else _is_empty
        kept = [index for index, value in enumerate(values) if not missing(value)]
        return rows if len(kept) == len(rows) else rows.select(kept)

    def _minus_one_is_missing(self, values: list[Any], rows: Dataset, column: str) -> bool:
        if declared_names(rows, column) is not None:
            return True
        found = {class_of(value) for value in values if not _is_hidden(value)}
        return {each.number for each in found if each is not None} == set(range(len(self.classes)))

    def prepare(self, parts: Mapping[str, Dataset]) -> list[Understood]:
        """Decide which class of the data is which class of the model.

        Args:
            parts: the rows that are used, by the name of their split; all rows have labels, or none in a split has.

        Returns:
            What was decided, for the user.

        Raises:
            DataError: the labels do not fit the model, or it would have to be guessed which class is which.
        """
        if self.scores:
            return [
                ("scores", f"{name}: {_span(self.read(rows))}") for name, rows in parts.items() if self.present(rows)
            ]
        counts = {name: Counter(self._classes(rows)) for name, rows in parts.items() if self.present(rows)}
        found = {each for count in counts.values() for each in count}
        if not found:
            return []
        where = f"column {find_label(self.columns, next(iter(parts.values())))!r} of {self.source}"
        self.outputs = self.classes.match(found, self.columns.classes, where)
        return about_classes(self.outputs, counts, self.classes)

    def read(self, rows: Dataset) -> list[int] | list[float]:
        """The labels of a split, as class indices of the model, or as scores if the model has one output.

        Args:
            rows: rows of the split, all with a label.

        Raises:
            DataError: a label is neither a class nor a score.
        """
        return self._scores(rows) if self.scores else [self.outputs[each] for each in self._classes(rows)]

    def fits(self, rows: Dataset, column: str) -> bool:
        """Whether a column that has no usual name could hold the labels.

        Args:
            rows: rows of a split.
            column: column of the split.
        """
        values = [value for value in rows[column] if not _is_empty(value)]
        if self.scores:
            return bool(values) and all(isinstance(value, float) for value in values)
        declared = declared_names(rows, column)
        found = [class_of(value, declared) for value in values if not _is_hidden(value)]
        distinct = {each for each in found if each is not None}
        if None in found or not 1 < len(distinct) < len(found):
            return False
        try:
            self.classes.match(distinct, None, column)
        except DataError:
            return False
        return True

    def _scores(self, rows: Dataset) -> list[float]:
        where = self._where(rows)
        try:
            return [float(value) for value in rows[where]]
        except (TypeError, ValueError):
            raise DataError(
                f"column {where!r} of {self.source} holds {listed(sorted(set(map(str, rows[where]))), 3)}; the model has "
                f"one output and needs scores; choose another --label-column, or: {WITHOUT_LABELS}"
            ) from None

    def _classes(self, rows: Dataset) -> list[DataClass]:
        column = self._where(rows)
        declared = declared_names(rows, column)
        values = rows[column][:]
        if lists := [value for value in values if isinstance(value, list | dict)]:
            raise DataError(
                f"column {column!r} of {self.source} holds {str(lists[0])[:40]}; the model has {len(self.classes)} classes, "
                "of which a text has one; choose: --task token-classification, if these are tags of words; --task "
                "multi-label-classification, if a text may have several classes; another --label-column; "
                f"{WITHOUT_LABELS}"
            )
        known = {value: class_of(value, declared) for value in set(values)}
        for value, each in known.items():
            if each is None:
                raise DataError(
                    f"column {column!r} of {self.source} holds {value!r}; the model has {len(self.classes)} classes, "
                    f"not scores; choose another --label-column, or: {WITHOUT_LABELS}"
                )
        return [each for value in values if (each := known[value]) is not None]

    def _where(self, rows: Dataset) -> str:
        column = find_label(self.columns, rows)
        assert column is not None
        return column


def _is_empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _is_hidden(value: Any) -> bool:
    return _is_empty(value) or (not isinstance(value, list) and str(value).strip() in ("-1", "-1.0"))


def _span(values: list[Any]) -> str:
    return f"{len(values)} from {min(values):g} to {max(values):g}"
