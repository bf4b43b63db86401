"""Words and tags: columns of a data set, and class indices of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks.base import Columns, Understood
from secateurs.tasks.data.bad_rows import place, skip_without
from secateurs.tasks.data.batches import IGNORED
from secateurs.tasks.data.classes import WITHOUT_LABELS, DataClass, ModelClasses, class_of, declared_names
from secateurs.tasks.data.columns import find_column, find_label, parallel_column
from secateurs.tasks.data.list_cells import lists_or_texts
from secateurs.tasks.data.understood import about_classes

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["WORDS", "Tags", "skip_wordless", "words_of"]

WORDS = ("tokens", "words", "text", "sentence")
TAGS = ("ner_tags", "tags", "slots", "slot_labels", "labels", "label", "pos_tags", "chunk_tags")


def skip_wordless(splits: dict[str, Dataset], columns: Columns, source: str) -> dict[str, Dataset]:
    """Skip the rows without a word, or without tags where others have some, if a split has few of them.

    Args:
        splits: rows by the name of their split, in the order of their files.
        columns: names of the columns.
        source: name of the data set in log lines.
    """
    names = [columns.text] if columns.text is not None else WORDS

    def used(rows: Dataset) -> list[str]:
        words = [name for name in names if name in rows.column_names][:1]
        tags = find_label(columns, rows, TAGS)
        return [*words, tags] if tags is not None else words

    return skip_without(splits, used, source, blank=True)


def words_of(rows: Dataset, columns: Columns, source: str) -> list[list[str]]:
    """Read the words of every row. A row is a list of words, or a text that is divided at white space.

    Raises:
        DataError: the column does not exist, a row is neither a list of words nor a text, or a row has no words.
    """
    column = find_column(columns.text, "text", WORDS, rows, source)
    words: list[list[str]] = []
    for index, value in enumerate(lists_or_texts(rows[column][:], f"column {column!r} of {source}")):
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise DataError(f"{place(rows, index, source, column)} holds no words; give lists of words, or text")
        if not parts:
            raise DataError(f"{place(rows, index, source, column)} has no words; drop such rows")
        words.append(parts)
    return words


class Tags:
    """Conversion of the tag column of a data set to class indices of a model.

    ``prepare`` is called before ``read``.

    Args:
        config: config of the model.
        columns: names of the columns.
        source: name of the data set in error messages.

    Raises:
        UnsupportedModelError: the model has only one class.
    """

    def __init__(self, config: Any, columns: Columns, source: str) -> None:
        if config.num_labels < 2:
            raise UnsupportedModelError("the model has one label; token_classification needs several classes")
        self.columns, self.source = columns, source
        self.classes = ModelClasses.of(config)
        self.outputs: dict[DataClass, int] = {}

    def choose(self, splits: Mapping[str, Dataset]) -> None:
        """Choose the tag column where several columns with usual names hold tags: the first that fits the model.

        Args:
            splits: rows by the name of their split.

        Raises:
            DataError: it would have to be guessed which column holds the tags.
        """
        rows = next(rows for rows in splits.values() if len(rows))
        words = next((name for name in (self.columns.text, *WORDS) if name in rows.column_names), None)
        if self.columns.label is not None or words is None:
            return
        others = [name for name in rows.column_names if name != words]
        usual = [name for name in TAGS if name in others and parallel_column(rows, words, [name])]
        if not usual and find_label(self.columns, rows, TAGS) is None:
            if found := parallel_column(rows, words, others):
                raise DataError(
                    f"{self.source} has no column of tags by a usual name, and {found!r} has as many elements as "
                    f"{words!r} has words: choose --label-column {found}; {WITHOUT_LABELS}"
                )
            if spans := [name for name in others if _holds_spans(rows[:100][name])]:
                raise DataError(
                    f"column {spans[0]!r} of {self.source} holds spans of characters; write one tag for every word of "
                    f"{words!r} instead; or: {WITHOUT_LABELS}"
                )
            return
        fitting = {name: named for name in usual if (named := self._fits(rows, name)) is not None}
        if len(usual) < 2 or not fitting:
            return
        first = next(iter(fitting))
        if not fitting[first] and len(fitting) > 1:
            choices = "; ".join(f"--label-column {name}" for name in fitting)
            raise DataError(
                f"{self.source} has several columns of tags by number, and each fits the {len(self.classes)} classes of "
                f"the model: choose {choices}; {WITHOUT_LABELS}"
            )
        self.columns = replace(self.columns, label=first)

    def _fits(self, rows: Dataset, column: str) -> bool | None:
        """Whether the names of the classes of a column decide which is which; ``None`` if the column does not fit."""
        try:
            found = set(self._counts(rows, column))
            self.classes.match(found, self.columns.classes, column)
        except DataError:
            return None
        return any(each.named for each in found) and not self.classes.unnamed

    def column(self, rows: Dataset) -> str | None:
        """The tag column of a split, or ``None`` if it has none."""
        return find_label(self.columns, rows, TAGS)

    def present(self, rows: Dataset) -> bool:
        """Whether a split has tags. A column without any value counts as missing."""
        column = self.column(rows)
        return column is not None and any(value is not None for value in rows[column])

    def prepare(self, parts: Mapping[str, Dataset]) -> list[Understood]:
        """Decide which tag of the data is which class of the model.

        Args:
            parts: the rows that are used, by the name of their split.

        Returns:
            What was decided, for the user, with the number of words of every class.

        Raises:
            DataError: the tags do not fit the model, or it would have to be guessed which tag is which class.
        """
        counts = {
            name: self._counts(rows, column)
            for name, rows in parts.items()
            if self.present(rows) and (column := self.column(rows)) is not None
        }
        found = {each for count in counts.values() for each in count}
        if not found:
            return []
        where = f"column {self.column(next(iter(parts.values())))!r} of {self.source}"
        self.outputs = self.classes.match(found, self.columns.classes, where)
        return about_classes(self.outputs, counts, self.classes, "word")

    def read(self, rows: Dataset, words: Sequence[Sequence[str]], source: str) -> list[list[int]]:
        """Read the tags of a split as class indices of the model, one per word; the tag -100 (``IGNORED``) is kept.

        Args:
            rows: rows of the split.
            words: words of every row.
            source: name of the split in error messages.

        Raises:
            DataError: a row has no tags, or another number of tags than words.
        """
        column = self.column(rows)
        assert column is not None
        declared = declared_names(rows, column)
        known: dict[Any, int] = {IGNORED: IGNORED}
        tags: list[list[int]] = []
        for index, (value, parts) in enumerate(zip(self._cells(rows, column), words, strict=True)):
            given = value.split() if isinstance(value, str) else value
            if not isinstance(given, list):
                raise DataError(f"{place(rows, index, source, column)} holds {value!r}, not a tag for every word")
            if len(given) != len(parts):
                raise DataError(f"{place(rows, index, source, column)} has {len(given)} tags for {len(parts)} words")
            for tag in set(given) - known.keys():
                found = class_of(tag, declared)
                assert found is not None
                known[tag] = self.outputs[found]
            tags.append([known[tag] for tag in given])
        return tags

    def _cells(self, rows: Dataset, column: str) -> list[Any]:
        return lists_or_texts(rows[column][:], f"column {column!r} of {self.source}")

    def _counts(self, rows: Dataset, column: str) -> Counter[DataClass]:
        """How many words have each class.

        Raises:
            DataError: a row holds no tags.
        """
        declared = declared_names(rows, column)
        found: Counter[Any] = Counter()
        for index, value in enumerate(self._cells(rows, column)):
            given = value.split() if isinstance(value, str) else value
            if not isinstance(given, list) or any(isinstance(tag, list | dict) for tag in given):
                raise DataError(f"{place(rows, index, self.source, column)} holds {value!r}, not a tag for every word")
            found.update(given)
        del found[IGNORED]
        counts: Counter[DataClass] = Counter()
        for tag, count in found.items():
            each = class_of(tag, declared)
            if each is None:
                raise DataError(f"column {column!r} of {self.source} holds the tag {tag!r}; {WITHOUT_LABELS}")
            counts[each] += count
        return counts


def _holds_spans(values: list[Any]) -> bool:
    """Whether a column holds lists of spans: objects with a start and an end."""
    parts = [part for value in values if isinstance(value, list) for part in value]
    return bool(parts) and all(isinstance(part, dict) and {"start", "end"} <= part.keys() for part in parts)
