"""Words and tags: columns of a data set, class indices of a model, and rows of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.bad_rows import place, skip_without
from secateurs.tasks.data.batches import IGNORED, Collate, Rows, TextKey
from secateurs.tasks.data.columns import find_column, find_label
from secateurs.tasks.data.encode import Encode, Row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Tags", "WordRows", "skip_wordless", "words_of"]

WORDS = ("tokens", "words", "text", "sentence")
TAGS = ("ner_tags", "tags", "slots", "slot_labels", "labels", "label", "pos_tags", "chunk_tags")


def skip_wordless(splits: dict[str, Dataset], columns: Columns, source: str) -> dict[str, Dataset]:
    """Skip the rows without a word, if a split has few of them.

    Args:
        splits: rows by the name of their split, in the order of their files.
        columns: names of the columns.
        source: name of the data set in log lines.
    """
    names = [columns.text] if columns.text is not None else WORDS

    def used(rows: Dataset) -> list[str]:
        return [name for name in names if name in rows.column_names][:1]

    return skip_without(splits, used, source, blank=True)


def words_of(rows: Dataset, columns: Columns, source: str) -> list[list[str]]:
    """Read the words of every row. A row is a list of words, or a text that is divided at white space.

    Raises:
        DataError: the column does not exist, a row is neither a list of words nor a text, or a row has no words.
    """
    column = find_column(columns.text, "text", WORDS, rows, source)
    words: list[list[str]] = []
    for index, value in enumerate(rows[column][:]):
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise DataError(f"{place(rows, index, source, column)} holds no words; give lists of words, or text")
        if not parts:
            raise DataError(f"{place(rows, index, source, column)} has no words; drop such rows")
        words.append(parts)
    return words


class Tags:
    """Conversion of the tag column of a data set to class indices of a model.

    Args:
        config: config of the model.
        columns: names of the columns.

    Raises:
        UnsupportedModelError: the model has only one class.
    """

    def __init__(self, config: Any, columns: Columns) -> None:
        if config.num_labels < 2:
            raise UnsupportedModelError("the model has one label; token_classification needs several classes")
        self.columns = columns
        self.labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        self.by_name = {label: index for index, label in enumerate(self.labels)}

    def present(self, rows: Dataset) -> bool:
        """Whether a split has tags. A column without any value counts as missing."""
        column = find_label(self.columns, rows, TAGS)
        return column is not None and any(value is not None for value in rows[column])

    def read(self, rows: Dataset, words: Sequence[Sequence[str]], source: str) -> list[list[int]]:
        """Read the tags of a split as class indices of the model, one per word; the tag -100 (``IGNORED``) is kept.

        Args:
            rows: rows of the split.
            words: words of every row.
            source: name of the split in error messages.

        Raises:
            DataError: a row has no tags, another number of tags than words, or a tag that the model does not know.
        """
        column = find_label(self.columns, rows, TAGS)
        assert column is not None
        names = self._names(rows, column)
        tags: list[list[int]] = []
        for index, (value, parts) in enumerate(zip(rows[column][:], words, strict=True)):
            where = partial(place, rows, index, source, column)
            given = value.split() if isinstance(value, str) else value
            if not isinstance(given, list):
                raise DataError(f"{where()} holds {value!r}, not a tag for every word")
            if len(given) != len(parts):
                raise DataError(f"{where()} has {len(given)} tags for {len(parts)} words")
            tags.append([self._index(tag, names, where) for tag in given])
        return tags

    def _names(self, rows: Dataset, column: str) -> list[str] | None:
        """Names of the integer tags in the data; ``None`` if they have no names or the model has none.

        A model whose labels are ``LABEL_0``, ``LABEL_1``, ... is assumed to number the tags as the data does.
        """
        feature: Any = rows.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        unnamed = all(re.fullmatch(r"LABEL_\d+", label) for label in self.labels)
        return None if unnamed else names

    def _index(self, tag: Any, names: list[str] | None, where: Callable[[], str]) -> int:
        """Class index of a tag, which is an integer or a name.

        Args:
            tag: tag in the data.
            names: names of the integer tags, or ``None``.
            where: function that returns row and column of the tag, for error messages.
        """
        if isinstance(tag, int) and tag == IGNORED:
            return IGNORED
        if isinstance(tag, int) and names is not None and 0 <= tag < len(names):
            tag = names[tag]
        if isinstance(tag, int) and 0 <= tag < len(self.labels):
            return tag
        if isinstance(tag, int):
            raise DataError(f"the tag {tag} in {where()} is unknown; the model has classes 0..{len(self.labels) - 1}")
        if tag not in self.by_name:
            known = ", ".join(self.labels[:10])
            raise DataError(f"the tag {tag!r} in {where()} is unknown to the model; its labels are {known}")
        return self.by_name[tag]


@final
class WordRows(Rows):
    """Rows of words, tokenized on access. Every word is represented by its first token.

    A row has a ``loss_mask`` (1 at first tokens) and, with tags, ``labels`` (class at first tokens, ``IGNORED`` elsewhere).

    Args:
        encode: tokenizer and maximum number of tokens per row.
        words: words of every row.
        tags: class index of every word of every row, or ``None``.

    Raises:
        UnsupportedModelError: the tokenizer is a slow one, which does not map tokens to words.
    """

    def __init__(self, encode: Encode, words: list[list[str]], tags: list[list[int]] | None = None) -> None:
        encode.require_fast("words")
        super().__init__(Collate.like(encode.tokenizer, token_labels=True))
        self.encode, self.words, self.tags = encode, words, tags

    def __len__(self) -> int:
        return len(self.words)

    def text_keys(self) -> list[TextKey]:
        """See ``Rows.text_keys``."""
        return [TextKey(words, words) for words in map(tuple, self.words)]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        encoded = self.encode.tokenizer(
            [[self._word_prefix + word for word in self.words[index]] for index in indices],
            is_split_into_words=True,
            truncation=True,
            max_length=self.encode.sequence_length,
        )
        rows: list[Row] = []
        for position, index in enumerate(indices):
            row: Row = {key: encoded[key][position] for key in self.encode.keys if key in encoded}
            owners = encoded.word_ids(position)
            # Index of the word that starts at a token, or None.
            started = [None if word == before else word for before, word in pairwise([None, *owners])]
            row["loss_mask"] = [int(word is not None) for word in started]
            if self.tags is not None:
                tags = self.tags[index]
                row["labels"] = [IGNORED if word is None else tags[word] for word in started]
            rows.append(row)
        return rows

    @cached_property
    def _word_prefix(self) -> str:
        """A blank for byte-level tokenizers (GPT-2, RoBERTa), which would otherwise read the words as one long word."""
        tokenizer: Any = self.encode.tokenizer
        from_words = tokenizer([["a", "a"]], is_split_into_words=True)["input_ids"][0]
        return "" if from_words == tokenizer(["a a"])["input_ids"][0] else " "
