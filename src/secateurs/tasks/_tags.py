"""Words and their tags: columns against the labels of a model, and rows of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import Columns
from secateurs.tasks._batches import IGNORED, Collate, Encode, Row, Rows, sample
from secateurs.tasks._columns import find_column, find_label

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Tags", "WordRows", "words_of"]

WORDS = ("tokens", "words", "text", "sentence")
TAGS = ("ner_tags", "tags", "slots", "slot_labels", "labels", "label", "pos_tags", "chunk_tags")


def words_of(rows: Dataset, columns: Columns, source: str) -> list[list[str]]:
    """The words of every row: lists of words, or text that is divided at blanks.

    Raises:
        DataError: there is no such column, it holds something else, or a row has no words.
    """
    column = find_column(columns.text, "text", WORDS, rows, source)
    words: list[list[str]] = []
    for index, value in enumerate(rows[column][:]):
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise DataError(
                f"row {index} of column {column!r} of {source} holds no words; give lists of words, or text"
            )
        if not parts:
            raise DataError(f"row {index} of column {column!r} of {source} has no words; drop such rows")
        words.append(parts)
    return words


class Tags:
    """The tag column of a data set against the labels of a model."""

    def __init__(self, config: Any, columns: Columns) -> None:
        if config.num_labels < 2:
            raise UnsupportedModelError("the model has one label; token_classification needs a class out of several")
        self.columns = columns
        self.labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        self.by_name = {label: index for index, label in enumerate(self.labels)}

    def present(self, rows: Dataset) -> bool:
        """Whether a split has tags; a column without any value does not count."""
        column = find_label(self.columns, rows, TAGS)
        return column is not None and any(value is not None for value in rows[column])

    def read(self, rows: Dataset, words: Sequence[Sequence[str]], source: str) -> list[list[int]]:
        """The tags of a split as the model counts them, one a word; ``IGNORED`` where the data says so.

        Raises:
            DataError: a row has no tags, or not as many as words, or a tag that the model does not know.
        """
        column = find_label(self.columns, rows, TAGS)
        assert column is not None
        where = f"column {column!r} of {source}"
        names = self._names(rows, column)
        tags: list[list[int]] = []
        for index, (value, parts) in enumerate(zip(rows[column][:], words, strict=True)):
            given = value.split() if isinstance(value, str) else value
            if not isinstance(given, list):
                raise DataError(f"row {index} of {where} holds {value!r}, not a tag for every word")
            if len(given) != len(parts):
                raise DataError(f"row {index} of {where} has {len(given)} tags for {len(parts)} words")
            tags.append([self._index(tag, names, f"in row {index} of {where}") for tag in given])
        return tags

    def _names(self, rows: Dataset, column: str) -> list[str] | None:
        """What the data calls its numbered tags. A model without names of its own is taken to count as the data does."""
        feature: Any = rows.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        unnamed = all(re.fullmatch(r"LABEL_\d+", label) for label in self.labels)
        return None if unnamed else names

    def _index(self, tag: Any, names: list[str] | None, where: str) -> int:
        if isinstance(tag, int) and tag == IGNORED:
            return IGNORED
        if isinstance(tag, int) and names is not None and 0 <= tag < len(names):
            tag = names[tag]
        if isinstance(tag, int) and 0 <= tag < len(self.labels):
            return tag
        if isinstance(tag, int):
            raise DataError(f"there is the tag {tag} {where}; the model has classes 0..{len(self.labels) - 1}")
        if tag not in self.by_name:
            known = ", ".join(self.labels[:10])
            raise DataError(f"there is the tag {tag!r} {where}, which the model does not know; its labels are {known}")
        return self.by_name[tag]


@final
class WordRows(Rows):
    """Words that are tokenised when they are asked for; the first token of a word stands for it.

    A row has ``judged`` (1 at first tokens) and, with tags, ``labels`` (a class there, ``IGNORED`` elsewhere).

    Args:
        encode: tokenizer and length.
        words: of every row.
        tags: as many classes a row.

    Raises:
        UnsupportedModelError: the tokenizer cannot say which word a token belongs to.
    """

    def __init__(self, encode: Encode, words: list[list[str]], tags: list[list[int]] | None = None) -> None:
        super().__init__(Collate.like(encode.tokenizer, token_labels=True))
        encode.require_fast("which word a token belongs to")
        self.encode, self.words, self.tags = encode, words, tags

    def __len__(self) -> int:
        return len(self.words)

    def sample(self, size: int, seed: int) -> list[Row]:
        """See ``Rows.sample``."""
        return self.rows(sample(len(self), size, seed))

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        encoded = self.encode.tokenizer(
            [[self._lead + word for word in self.words[index]] for index in indices],
            is_split_into_words=True,
            truncation=True,
            max_length=self.encode.sequence_length,
        )
        rows: list[Row] = []
        for position, index in enumerate(indices):
            row: Row = {key: encoded[key][position] for key in self.encode.keys if key in encoded}
            owners = encoded.word_ids(position)
            # The word that begins at a token, if one does.
            begun = [None if word == before else word for before, word in pairwise([None, *owners])]
            row["judged"] = [int(word is not None) for word in begun]
            if self.tags is not None:
                tags = self.tags[index]
                row["labels"] = [IGNORED if word is None else tags[word] for word in begun]
            rows.append(row)
        return rows

    @cached_property
    def _lead(self) -> str:
        """A blank for tokenizers of bytes (GPT-2, RoBERTa): without it they would read the words as one long word."""
        tokenizer: Any = self.encode.tokenizer
        apart = tokenizer([["a", "a"]], is_split_into_words=True)["input_ids"][0]
        return "" if apart == tokenizer(["a a"])["input_ids"][0] else " "
