"""Rows of tokens, padded batches, and forward passes over batches.

``Collate`` pads rows to one batch; ``batches_of`` and ``ordered_batches`` choose which rows form a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import Dataset, Subset
from transformers import DataCollatorWithPadding

from secateurs.tasks.base import Batch, model_inputs
from secateurs.tasks.data.encode import Encode, Row, right_padding_copy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "IGNORED",
    "Collate",
    "MakeBatch",
    "Ordered",
    "Rows",
    "TextKey",
    "TextRows",
    "batches_of",
    "forward",
    "ordered",
    "ordered_batches",
    "row_length",
    "sample",
]

IGNORED = -100
"""Label of tokens without a label; the cross-entropy of torch ignores it by default."""

MakeBatch = Callable[[list[Row]], Batch]
"""Function that makes one batch of rows with equal keys."""


@dataclass(frozen=True)
class Collate:
    """Pads rows of unequal length on the right to one batch, with transformers' ``DataCollatorWithPadding``.

    Args:
        tokenizer: tokenizer that pads token ids, attention mask and token types; see ``like``.
        token_labels: whether ``labels`` has one label per token; then ``labels`` is padded with ``IGNORED``.
    """

    tokenizer: PreTrainedTokenizerBase
    token_labels: bool = False

    @classmethod
    def like(cls, tokenizer: PreTrainedTokenizerBase, token_labels: bool = False) -> Collate:
        """Pads with the padding token of a tokenizer, or with another one if it has none; see ``padding_token``.

        The given tokenizer is not changed: one that pads on the left or has no padding token is copied.

        Args:
            tokenizer: tokenizer of the model.
            token_labels: whether ``labels`` has one label per token.
        """
        if tokenizer.padding_side != "right" or tokenizer.pad_token_id is None:
            tokenizer = right_padding_copy(tokenizer)
        return cls(tokenizer, token_labels)

    def __call__(self, rows: list[Row]) -> Batch:
        """One batch, padded to its longest row.

        Args:
            rows: rows with equal keys.
        """
        # A tokenizer pads only the inputs of the model.
        fills = {"loss_mask": 0, "labels": IGNORED} if self.token_labels else {"loss_mask": 0}
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [
            {key: _fill(value, fills[key], longest) if key in fills else value for key, value in row.items()}
            for row in rows
        ]
        return dict(DataCollatorWithPadding(self.tokenizer)(padded))


def _fill(values: Sequence[int], fill: int, length: int) -> list[int]:
    return [*values, *[fill] * (length - len(values))]


class TextKey(NamedTuple):
    """What identifies a text: its neighbours have the same ``group``, equal texts have the same ``text``."""

    group: Hashable
    text: Hashable


class Rows(Dataset[Row], ABC):
    """Data set of rows for calibration, training and evaluation; a ``Pool`` of texts.

    Args:
        collate: function that pads rows to a batch.
    """

    rows_per_item: int = 1
    """See ``Pool.rows_per_item``."""

    def __init__(self, collate: MakeBatch) -> None:
        self.collate = collate

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        return self.rows([index])[0]

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows with the given indices, tokenized in one call."""

    @abstractmethod
    def text_keys(self) -> list[TextKey]:
        """See ``Pool.text_keys``; an item is a row."""

    def draw(self, items: Sequence[int]) -> list[list[Row]]:
        """See ``Pool.draw``."""
        return [[row] for row in self.rows(items)]

    def without(self, items: Collection[int]) -> Dataset[Row]:
        """See ``Pool.without``."""
        return Subset(self, [index for index in range(len(self)) if index not in items]) if items else self


@final
class TextRows(Rows):
    """Rows of texts. Texts are tokenized on access, so that opening a large training split takes no time.

    Args:
        encode: tokenization.
        texts: text of every row.
        pairs: second text of every row, or ``None``.
        labels: class or score of every row, or ``None``.
    """

    def __init__(
        self, encode: Encode, texts: list[str], pairs: list[str] | None = None, labels: Sequence[float] | None = None
    ) -> None:
        super().__init__(Collate.like(encode.tokenizer))
        self.encode, self.texts, self.pairs, self.labels = encode, texts, pairs, labels

    def __len__(self) -> int:
        return len(self.texts)

    def text_keys(self) -> list[TextKey]:
        """See ``Rows.text_keys``. Pairs with the same first text are neighbours, e.g. all documents of a query."""
        if self.pairs is None:
            return [TextKey(text, text) for text in self.texts]
        return [TextKey(pair[0], pair) for pair in zip(self.texts, self.pairs, strict=True)]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        pairs = [self.pairs[i] for i in indices] if self.pairs is not None else None
        rows = self.encode([self.texts[i] for i in indices], pairs)
        if self.labels is not None:
            for row, index in zip(rows, indices, strict=True):
                row["labels"] = self.labels[index]
        return rows


def sample(count: int, size: int | None, seed: int) -> list[int]:
    """A random sample of indices, ascending.

    Args:
        count: number of indices to choose from (``0 .. count - 1``).
        size: size of the sample; all indices are returned if it is ``None`` or at least ``count``.
        seed: seed of the sample.
    """
    if size is None or size >= count:
        return list(range(count))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def batches_of(rows: list[Row], batch_size: int, collate: MakeBatch, seed: int) -> list[Batch]:
    """Batches in random order. Each has rows of similar length, to need little padding.

    Args:
        rows: rows in any order.
        batch_size: rows per batch.
        collate: function that pads rows to a batch.
        seed: seed of the order of the batches.
    """
    batches = _by_length(rows, batch_size, collate)[0]
    generator = torch.Generator().manual_seed(seed)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@dataclass(frozen=True)
class Ordered:
    """Batches of rows sorted by length.

    Args:
        batches: batches, the longest rows first.
        order: row ``j`` of the concatenated batches is row ``order[j]`` of the data.
    """

    batches: list[Batch]
    order: list[int]

    def __len__(self) -> int:
        return len(self.order)

    def restore(self, rows: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "rows ..."]:
        """Results in the order of the data, given the concatenated results of the batches."""
        return torch.empty_like(rows).index_copy_(0, torch.tensor(self.order, device=rows.device), rows)


def ordered_batches(data: Rows, batch_size: int) -> Ordered:
    """All rows of a data set, sorted by length; see ``ordered``."""
    return ordered(data.rows(range(len(data))), batch_size, data.collate)


def ordered(rows: list[Row], batch_size: int, collate: MakeBatch) -> Ordered:
    """Rows sorted by length, the longest first, so that a lack of memory shows in the first batch.

    Args:
        rows: rows of the data.
        batch_size: rows per batch.
        collate: function that pads rows to a batch.
    """
    return Ordered(*_by_length(rows, batch_size, collate))


def row_length(row: Row) -> int:
    """Tokens of a row; 1 for an image, since all images have one size."""
    return len(row["input_ids"]) if "input_ids" in row else 1


def _by_length(rows: list[Row], batch_size: int, collate: MakeBatch) -> tuple[list[Batch], list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (-row_length(rows[i]), i))
    batches = [
        collate([rows[i] for i in order[start : start + batch_size]]) for start in range(0, len(order), batch_size)
    ]
    return batches, order


def forward(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    device: torch.device | str,
    inputs: Callable[[Batch], Batch] = model_inputs,
) -> Iterator[tuple[Any, Batch]]:
    """Run a model over batches in evaluation mode without gradients; its training mode is restored at the end.

    Args:
        model: model on ``device``.
        batches: batches on any device.
        device: device to which the batches are moved.
        inputs: function that chooses the inputs of the model from a batch.

    Yields:
        The outputs of the model, and the moved batch.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                moved = {key: value.to(device) for key, value in batch.items()}
                yield model(**inputs(moved)), moved
    finally:
        model.train(training)
