"""Running text -> windows of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from secateurs.tasks._batches import Encode

__all__ = ["Windows", "joined"]

WINDOWS_A_CHUNK = 8
CHARACTERS_A_TOKEN = 4
CHUNKS_AT_ONCE = 64


def joined(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Rows with what ends them: rows of several lines are documents and end with the end token; others are the lines
    of one text and end with a line break."""
    rows = [text.removesuffix("\n") for text in texts]
    documents = any("\n" in row for row in rows)
    end = str(tokenizer.eos_token or "\n") if documents else "\n"
    return [row + end for row in rows]


class Windows(Dataset[dict[str, Any]]):
    """Windows of ``sequence_length`` tokens without overlap, over texts that follow one another.

    Where the tokenizer opens a text with a token of its own, every window opens with it.

    Args:
        encode: tokenizer and window length.
        texts: what ``joined`` returned.
        partial: keep the shorter window at the end (to evaluate), or drop it (to calibrate and train).
    """

    def __init__(self, encode: Encode, texts: list[str], partial: bool = False) -> None:
        self.encode, self.texts, self.partial = encode, texts, partial

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._all[index]

    @cached_property
    def _all(self) -> list[dict[str, Any]]:
        # Only now, because reading must stay fast: a run without training never tokenises the whole train split.
        chunks = self._chunks
        starts = range(0, len(chunks), CHUNKS_AT_ONCE)
        parts = (part for start in starts for part in self._tokens(chunks[start : start + CHUNKS_AT_ONCE]))
        return list(self._cut([token for part in parts for token in part]))

    def sample(self, size: int, seed: int) -> list[dict[str, Any]]:
        """Windows from random places of the text; only as much of it is tokenised as is needed.

        Returns:
            ``size`` windows, or all there are.
        """
        generator = torch.Generator().manual_seed(seed)
        found: list[dict[str, Any]] = []
        # A text with few chunks is spread over all of them, one with many gives a few windows each.
        for i in torch.randperm(len(self._chunks), generator=generator).tolist():
            found += self._cut(self._tokens(self._chunks[i : i + 1])[0])
            if len(found) >= size:
                return found[:size]
        return found if len(found) >= size else self._all[:size]

    @cached_property
    def _chunks(self) -> list[str]:
        """Neighbouring rows put together, about eight windows long: long enough to lose little at the ends."""
        length = WINDOWS_A_CHUNK * CHARACTERS_A_TOKEN * self.encode.sequence_length
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
    def opening(self) -> list[int]:
        """The tokens that the tokenizer puts in front of every text."""
        tokenizer = self.encode.tokenizer
        start: Any = tokenizer.bos_token_id
        first: Any = tokenizer("a")["input_ids"][:1]
        return [start] if start is not None and first == [start] else []

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        # verbose=False: a chunk is longer than the model's window on purpose.
        return self.encode.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _cut(self, tokens: list[int]) -> Iterator[dict[str, Any]]:
        step = self.encode.sequence_length - len(self.opening)
        count = math.ceil(len(tokens) / step) if self.partial else len(tokens) // step
        for i in range(count):
            ids = [*self.opening, *tokens[i * step : (i + 1) * step]]
            if len(ids) > 1:
                yield {"input_ids": ids, "attention_mask": [1] * len(ids)}
