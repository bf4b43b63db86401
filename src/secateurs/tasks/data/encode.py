"""Tokenization of texts into rows of token ids."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.checkpoint.load_model import padding_token
from secateurs.errors import DataError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Encode", "Row", "right_padding_copy"]

Row = dict[str, Any]
"""One sequence before padding: a list of integers per key of the batch, and its label where a sequence has one."""


@dataclass(frozen=True)
class Encode:
    """Tokenizes texts or pairs of texts into rows.

    Args:
        tokenizer: tokenizer of the model.
        sequence_length: maximum number of tokens per row, including special tokens; longer rows are truncated.
        keys: names of the inputs that the model accepts.
    """

    tokenizer: PreTrainedTokenizerBase
    sequence_length: int
    keys: tuple[str, ...]

    @classmethod
    def for_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> Encode:
        """The tokenization for a model, with token types only where the model has embeddings for them.

        It works with a copy of the tokenizer, because a call with ``truncation`` changes a fast tokenizer, and the given
        one is handed over with the pruned model.

        Raises:
            DataError: the vocabulary of the tokenizer or the sequence length is too large for the model.
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
        # GPT-2 accepts token types without type embeddings: it would add the embeddings of the words 0 and 1.
        typed = "token_type_ids" in inspect.signature(model.forward).parameters
        types = ("token_type_ids",) if typed and (getattr(model.config, "type_vocab_size", 0) or 0) > 1 else ()
        return cls(right_padding_copy(tokenizer), sequence_length, ("input_ids", "attention_mask", *types))

    def require_fast(self, what: str) -> None:
        """Check that the tokenizer is a fast one, which maps tokens to words and characters of the text.

        Args:
            what: what the task needs tokens to be mapped to, for the error message.

        Raises:
            UnsupportedModelError: the tokenizer is a slow one.
        """
        if not self.tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(self.tokenizer).__name__} does not map tokens to {what}; "
                "use a model with a fast tokenizer (tokenizer.json)"
            )

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        """Tokenize texts, each together with its second text if ``pairs`` is given."""
        encoded = self.tokenizer(
            list(texts), list(pairs) if pairs is not None else None, truncation=True, max_length=self.sequence_length
        )
        return [{key: encoded[key][i] for key in self.keys if key in encoded} for i in range(len(texts))]


def right_padding_copy(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that pads and truncates on the right, and has a padding token; see ``padding_token``."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = padding_token(tokenizer) or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _positions(model: PreTrainedModel) -> int | None:
    """Maximum sequence length of the model, or ``None`` if it has no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # The positions of RoBERTa start at padding_idx + 1.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limit = module.num_embeddings - module.padding_idx - 1
    return limit
