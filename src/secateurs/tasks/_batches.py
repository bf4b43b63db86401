"""Texts -> tokens -> padded batches, and batches through a model."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.tasks import Batch, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "IGNORED",
    "Collate",
    "Encode",
    "Ordered",
    "Row",
    "Rows",
    "TextRows",
    "calibration_batches",
    "forward",
    "ordered",
    "ordered_batches",
    "sample",
]

Row = dict[str, Any]

IGNORED = -100
"""The label of a token that has none, as the losses of torch know it."""


@dataclass(frozen=True)
class Encode:
    """Texts (or pairs of texts) -> rows of token ids, cut off at ``sequence_length``.

    Args:
        tokenizer: of the model.
        sequence_length: tokens a row at most, special tokens included.
        keys: the inputs that the model reads.
    """

    tokenizer: PreTrainedTokenizerBase
    sequence_length: int
    keys: tuple[str, ...]

    @classmethod
    def for_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> Encode:
        """Raises:
        DataError: vocabulary or sequence length exceed what the model was built for.
        """
        embeddings: Any = model.get_input_embeddings()
        entries = embeddings.num_embeddings
        if len(tokenizer) > entries:
            raise DataError(
                f"the tokenizer has {len(tokenizer)} tokens and the model embeds {entries}; "
                "use the tokenizer that belongs to the model"
            )
        limit = _positions(model)
        if limit is not None and sequence_length > limit:
            raise DataError(f"sequence_length {sequence_length} exceeds the {limit} positions of the model")
        # GPT-2 accepts token types too, but adds word embeddings for them: only real type embeddings count.
        typed = "token_type_ids" in inspect.signature(model.forward).parameters
        types = ("token_type_ids",) if typed and (getattr(model.config, "type_vocab_size", 0) or 0) > 1 else ()
        return cls(tokenizer, sequence_length, ("input_ids", "attention_mask", *types))

    def require_fast(self, what: str) -> None:
        """Raises:
        UnsupportedModelError: the tokenizer cannot say ``what``.
        """
        if not self.tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(self.tokenizer).__name__} cannot say {what}; use a model with a fast tokenizer (tokenizer.json)"
            )

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        encoded = self.tokenizer(
            list(texts), list(pairs) if pairs is not None else None, truncation=True, max_length=self.sequence_length
        )
        return [{key: encoded[key][i] for key in self.keys if key in encoded} for i in range(len(texts))]


def _positions(model: PreTrainedModel) -> int | None:
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa counts positions from padding_idx + 1.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limit = module.num_embeddings - module.padding_idx - 1
    return limit


@dataclass(frozen=True)
class Collate:
    """Rows of unequal length -> one batch, padded on the right.

    Args:
        pad: the token to pad with.
        token_labels: every token has a label, so labels are padded too.
    """

    pad: int
    token_labels: bool = False

    @classmethod
    def like(cls, tokenizer: PreTrainedTokenizerBase, token_labels: bool = False) -> Collate:
        """Pads with the padding token, or with its end-of-text stand-in."""
        pad: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(int(pad or 0), token_labels)

    def __call__(self, rows: list[Row]) -> Batch:
        longest = max(len(row["input_ids"]) for row in rows)
        batch: Batch = {}
        for key in rows[0]:
            if key == "labels" and not self.token_labels:
                batch[key] = torch.tensor([row[key] for row in rows])
                continue
            fill = {"input_ids": self.pad, "labels": IGNORED}.get(key, 0)
            batch[key] = torch.tensor([[*row[key], *[fill] * (longest - len(row[key]))] for row in rows])
        return batch


class Rows(Dataset[Row], ABC):
    """Rows of tokens to calibrate on, train on and evaluate on.

    Args:
        collate: rows -> batch.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        return self.rows([index])[0]

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> list[Row]:
        """Several rows, tokenised at once."""

    @abstractmethod
    def sample(self, size: int, seed: int) -> list[Row]:
        """``size`` rows at random, or all there are."""


@final
class TextRows(Rows):
    """Texts that are tokenised when they are asked for, so that a large train split costs nothing up front."""

    def __init__(
        self, encode: Encode, texts: list[str], pairs: list[str] | None = None, labels: Sequence[float] | None = None
    ) -> None:
        super().__init__(Collate.like(encode.tokenizer))
        self.encode, self.texts, self.pairs, self.labels = encode, texts, pairs, labels

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, size: int, seed: int) -> list[Row]:
        """See ``Rows.sample``."""
        return self.rows(sample(len(self), size, seed))

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """See ``Rows.rows``."""
        pairs = [self.pairs[i] for i in indices] if self.pairs is not None else None
        rows = self.encode([self.texts[i] for i in indices], pairs)
        if self.labels is not None:
            for row, index in zip(rows, indices, strict=True):
                row["labels"] = self.labels[index]
        return rows


def sample(count: int, size: int | None, seed: int) -> list[int]:
    """``size`` of ``count`` indices at random, in order; all of them if there are no more or ``size`` is ``None``."""
    if size is None or size >= count:
        return list(range(count))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def calibration_batches(data: Rows, size: int, batch_size: int, seed: int) -> list[Batch]:
    """A random sample, sorted by length to waste little padding; the batches then come in random order."""
    batches = _by_length(data.sample(size, seed), batch_size, data.collate)[0]
    generator = torch.Generator().manual_seed(seed)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@dataclass(frozen=True)
class Ordered:
    """Batches sorted by length; row ``j`` of their concatenation is row ``order[j]`` of the data."""

    batches: list[Batch]
    order: list[int]

    def __len__(self) -> int:
        return len(self.order)

    def restore(self, rows: Tensor) -> Tensor:
        """Concatenated results back in the order of the data."""
        return torch.empty_like(rows).index_copy_(0, torch.tensor(self.order, device=rows.device), rows)


def ordered_batches(data: Rows, batch_size: int) -> Ordered:
    """All rows; see ``ordered``."""
    return ordered(data.rows(range(len(data))), batch_size, data.collate)


def ordered(rows: list[Row], batch_size: int, collate: Collate) -> Ordered:
    """Rows sorted by length, longest first (what runs out of memory does so at once)."""
    return Ordered(*_by_length(rows, batch_size, collate))


def _by_length(rows: list[Row], batch_size: int, collate: Collate) -> tuple[list[Batch], list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]["input_ids"]), i))
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
    """Outputs in evaluation mode without gradients, each beside its batch; ``inputs`` says what the model is given."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                moved = {key: value.to(device) for key, value in batch.items()}
                yield model(**inputs(moved)), moved
    finally:
        model.train(training)
