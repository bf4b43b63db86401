"""Division of running text into windows of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset as TorchDataset

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.columns import find_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from secateurs.tasks.data.encode import Encode

__all__ = ["Windows", "join_rows", "refuse_parts", "rows_are"]

PARTS = ("prompt", "question", "query", "context", "claim", "title", "utterance")
"""Usual names of columns that hold the first part of a text, where other columns hold the rest."""

WINDOWS_PER_CHUNK = 8
"""Approximate number of windows in a chunk, the part of a text that is tokenized separately."""

CHARACTERS_PER_TOKEN = 4
"""Estimate by which the length of a chunk in characters is chosen."""

CHUNKS_PER_CALL = 64
"""Chunks that are tokenized in one call."""


def join_rows(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Rows with the separator that ends them, so that their concatenation is the running text.

    If some row has several lines, rows are documents and end with the end token of the tokenizer. Otherwise rows are
    the lines of one text and end with a line break.
    """
    rows = [text.removesuffix("\n") for text in texts]
    documents = any("\n" in row for row in rows)
    end = str(tokenizer.eos_token or "\n") if documents else "\n"
    return [row + end for row in rows]


def refuse_parts(splits: dict[str, Dataset], columns: Columns, source: str) -> None:
    """Refuse data whose texts are parts of a longer text in several columns, such as a prompt and its completion.

    Raises:
        DataError: with the readings to choose from.
    """
    rows = next(rows for rows in splits.values() if len(rows))
    found = find_texts(columns, rows, source)
    texts = [name for name in rows.column_names if isinstance(rows[0][name], str) and name not in ("id", "url")]
    if columns.text is None and (found.text_pair is not None or found.text in PARTS) and len(texts) > 1:
        choices = "; ".join(f"--text-column {name}" for name in texts)
        raise DataError(
            f"{source} has texts in several columns ({', '.join(texts)}), which may be parts of one text: join them in one "
            f"column, or choose {choices}"
        )


def rows_are(texts: list[str]) -> str:
    """What ``join_rows`` took the rows for, for the user.

    Args:
        texts: rows as ``join_rows`` returned them.
    """
    return "the lines of one text" if all(text.find("\n") == len(text) - 1 for text in texts) else "documents"


class Windows(TorchDataset[dict[str, Any]]):
    """Windows of ``sequence_length`` tokens without overlap, over consecutive texts.

    If the tokenizer puts a start token before every text, every window begins with that token.

    Args:
        encode: tokenizer and window length.
        texts: consecutive texts, as returned by ``join_rows``.
        partial: whether to keep the shorter window at the end (for evaluation) or to drop it (for calibration and
            training).
    """

    def __init__(self, encode: Encode, texts: list[str], partial: bool = False) -> None:
        self.encode, self.texts, self.partial = encode, texts, partial

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._all[index]

    @cached_property
    def _all(self) -> list[dict[str, Any]]:
        # Computed on first access: a run without training never needs the tokens of the full training split.
        chunks = self._chunks
        starts = range(0, len(chunks), CHUNKS_PER_CALL)
        parts = (part for start in starts for part in self._tokens(chunks[start : start + CHUNKS_PER_CALL]))
        return list(self._cut([token for part in parts for token in part]))

    def sample(self, size: int, seed: int) -> list[dict[str, Any]]:
        """Windows from random places of the text. Chunks are tokenized until there are enough windows.

        Args:
            size: number of windows.
            seed: seed of the random order of the chunks.

        Returns:
            ``size`` windows, or all windows if there are fewer.
        """
        generator = torch.Generator().manual_seed(seed)
        found: list[dict[str, Any]] = []
        # A chunk contributes all of its windows: a long text gives some windows at each of several random places, and a
        # short text gives windows from all of its chunks.
        for i in torch.randperm(len(self._chunks), generator=generator).tolist():
            found += self._cut(self._tokens(self._chunks[i : i + 1])[0])
            if len(found) >= size:
                return found[:size]
        # Separate chunks have fewer windows than the full text, because the end of every chunk is dropped.
        return found if len(found) >= size else self._all[:size]

    @cached_property
    def _chunks(self) -> list[str]:
        """Consecutive rows, concatenated to about eight windows, so that few tokens are lost at the ends."""
        length = WINDOWS_PER_CHUNK * CHARACTERS_PER_TOKEN * self.encode.sequence_length
        chunks: list[str] = []
        part: list[str] = []
        size = 0
        for text in self.texts:
            part.append(text)
            size += len(text)
            if size >= length:
                chunks.append("".join(part))
                part, size = [], 0
        return [*chunks, "".join(part)] if part else chunks

    @cached_property
    def start_tokens(self) -> list[int]:
        """The start token that the tokenizer puts before every text; empty if it puts none."""
        tokenizer = self.encode.tokenizer
        start: Any = tokenizer.bos_token_id
        first: Any = tokenizer("a")["input_ids"][:1]
        return [start] if start is not None and first == [start] else []

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        # verbose=False: a chunk is longer than the maximum length of the model on purpose.
        return self.encode.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _cut(self, tokens: list[int]) -> Iterator[dict[str, Any]]:
        step = self.encode.sequence_length - len(self.start_tokens)
        count = math.ceil(len(tokens) / step) if self.partial else len(tokens) // step
        for i in range(count):
            ids = [*self.start_tokens, *tokens[i * step : (i + 1) * step]]
            if len(ids) > 1:
                yield {"input_ids": ids, "attention_mask": [1] * len(ids)}
