"""Rows of tokens of words, with their tags."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, final

from secateurs.tasks.data.batches import IGNORED, Collate, Rows, TextKey
from secateurs.tasks.data.encode import Encode, Row

__all__ = ["WordRows"]


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
