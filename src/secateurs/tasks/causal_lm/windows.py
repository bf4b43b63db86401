"""Division of running text into windows of tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from torch.utils.data import Dataset as TorchDataset

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.batches import Collate, TextKey
from secateurs.tasks.data.columns import find_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from secateurs.tasks.data.encode import Encode, Row

__all__ = ["ChunkPool", "WindowPool", "Windows", "join_rows", "refuse_parts", "rows_are"]

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
        chunks = self.chunks
        starts = range(0, len(chunks), CHUNKS_PER_CALL)
        parts = (part for start in starts for part in self._tokens(chunks[start : start + CHUNKS_PER_CALL]))
        return list(self._cut([token for part in parts for token in part]))

    def pool(self, size: int) -> ChunkPool | WindowPool:
        """The windows to draw ``size`` of. Only the drawn chunks of a long text are tokenized.

        Separate chunks have fewer windows than the full text, because the end of every chunk is dropped; a text that is not
        much longer than asked for is therefore tokenized as a whole.
        """
        ample = len(self.chunks) * ChunkPool.rows_per_item >= 2 * size
        return ChunkPool(self) if ample else WindowPool(list(self._all), self.encode)

    def chunk_windows(self, chunks: Sequence[int]) -> list[list[Row]]:
        """The windows of every given chunk."""
        return [list(self._cut(tokens)) for tokens in self._tokens([self.chunks[index] for index in chunks])]

    @cached_property
    def chunks(self) -> list[str]:
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


@final
class ChunkPool:
    """A long text as a ``Pool``: an item is a chunk, so that neighbouring windows have the same role.

    Args:
        text: windows of the text.
    """

    rows_per_item: int = 4
    """A chunk has about eight windows, and more where tokens are short."""

    def __init__(self, text: Windows) -> None:
        self.text, self.collate = text, Collate.like(text.encode.tokenizer)

    def text_keys(self) -> list[TextKey]:
        """See ``Pool.text_keys``."""
        return [TextKey(chunk, chunk) for chunk in self.text.chunks]

    def draw(self, items: Sequence[int]) -> list[list[Row]]:
        """See ``Pool.draw``."""
        return self.text.chunk_windows(items)

    def without(self, items: Collection[int]) -> Windows:
        """See ``Pool.without``."""
        if not items:
            return self.text
        return Windows(self.text.encode, [chunk for i, chunk in enumerate(self.text.chunks) if i not in items])


@final
class WindowPool(TorchDataset[dict[str, Any]]):
    """A short text as a ``Pool``: an item is a window.

    Args:
        windows: consecutive windows.
        encode: tokenizer and window length.
    """

    rows_per_item: int = 1

    def __init__(self, windows: list[Row], encode: Encode) -> None:
        self.windows, self.encode, self.collate = windows, encode, Collate.like(encode.tokenizer)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Row:
        return self.windows[index]

    def text_keys(self) -> list[TextKey]:
        """See ``Pool.text_keys``. Windows of one place are neighbours."""
        texts = [tuple(row["input_ids"]) for row in self.windows]
        return [TextKey(index // WINDOWS_PER_CHUNK, text) for index, text in enumerate(texts)]

    def draw(self, items: Sequence[int]) -> list[list[Row]]:
        """See ``Pool.draw``."""
        return [[self.windows[item]] for item in items]

    def without(self, items: Collection[int]) -> WindowPool:
        """See ``Pool.without``."""
        return WindowPool([row for i, row in enumerate(self.windows) if i not in items], self.encode)
