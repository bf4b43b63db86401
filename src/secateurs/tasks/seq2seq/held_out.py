"""The evaluation data of the task, and texts that a model generates from their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from secateurs.errors import DataError
from secateurs.tasks.base import Batch
from secateurs.tasks.data.batches import ordered_batches
from secateurs.tasks.seq2seq.pairs import SourceTargetRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HeldOutPairs", "check_length", "generated_texts"]


@dataclass(frozen=True)
class HeldOutPairs:
    """Sources and references for the metric.

    Args:
        batches: batches of all rows, the longest sources first.
        references: target text of every row of the batches, in their order.
        metric: name of the metric in recipes.
        max_new_tokens: most tokens that are generated per text.
        first_token: token that every generated text begins with, such as the code of its language; ``None`` = no such token.
        tokenizer: tokenizer that decodes the generated tokens.
    """

    batches: list[Batch]
    references: tuple[str, ...]
    metric: str
    max_new_tokens: int
    first_token: int | None
    tokenizer: Any

    @classmethod
    def of(cls, rows: SourceTargetRows, batch_size: int, metric: str, max_new_tokens: int) -> HeldOutPairs:
        """All rows of a data set.

        Args:
            rows: the rows.
            batch_size: rows per batch.
            metric: name of the metric in recipes.
            max_new_tokens: most tokens that are generated per text.
        """
        ordered = ordered_batches(rows, batch_size)
        references = tuple(rows.targets[index] for index in ordered.order)
        tokenizer = rows.encode.tokenizer
        return cls(
            ordered.batches, references, metric, max_new_tokens, _first_token(ordered.batches, tokenizer), tokenizer
        )


def _first_token(batches: list[Batch], tokenizer: Any) -> int | None:
    """The special token that every target begins with, after the start token of the decoder.

    Models for several languages are told the language of the target by this token. Teacher forcing gives it to the model,
    so that generation must, too.
    """
    first = {int(token) for batch in batches for token in batch["decoder_input_ids"][:, 1]}
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    special = {*tokenizer.all_special_ids} - ends
    return first.pop() if len(first) == 1 and first <= special else None


def check_length(model: PreTrainedModel, max_new_tokens: int) -> None:
    """Refuse to generate more tokens than the decoder has positions for.

    Raises:
        DataError: the decoder has fewer positions.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max_new_tokens > limit:
        raise DataError(f"max_new_tokens {max_new_tokens} exceeds the {limit} positions of the model")


def generated_texts(model: Any, held_out: HeldOutPairs, device: torch.device | str) -> list[str]:
    """The text that a model generates for every source, in the order of the references.

    Generation follows the model's own generation config (beams, length penalty, forced tokens), without sampling.

    Args:
        model: model on ``device``; its training mode is restored.
        held_out: sources.
        device: device of the model.
    """
    options: dict[str, Any] = {
        "max_new_tokens": held_out.max_new_tokens,
        "do_sample": False,
        "num_return_sequences": 1,
        "pad_token_id": held_out.tokenizer.pad_token_id,
    }
    if held_out.first_token is not None:
        options["forced_bos_token_id"] = held_out.first_token
    texts: list[str] = []
    training = model.training
    model.eval()
    try:
        for batch in held_out.batches:
            inputs = {name: value.to(device) for name, value in batch.items() if not name.startswith("decoder_")}
            with torch.no_grad():
                tokens = model.generate(**inputs, **options)
            texts += held_out.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    finally:
        model.train(training)
    return [text.strip() for text in texts]
