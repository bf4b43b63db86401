"""The next token of running text: perplexity, or bits per byte where every token is a byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.tasks import Batch, Columns, Score, Task, TaskData, model_inputs
from secateurs.tasks._batches import IGNORED, Collate, Encode, forward, sample
from secateurs.tasks._columns import find_texts, texts_of
from secateurs.tasks._divergence import kl_divergence
from secateurs.tasks._sources import divide, read_splits
from secateurs.tasks._windows import Windows, joined

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CausalLM"]

POSITIONS = 64
"""Positions a sequence at which models are compared, at most."""

LOGITS = 1 << 20
"""Logits a sequence that are kept to compare with: over a large vocabulary fewer positions serve."""


@dataclass(frozen=True)
class Passages:
    """Held-out windows, and what has to be said about them."""

    batches: list[Batch]
    details: dict[str, Any]
    bytewise: bool = False
    """Every token is a byte."""


@final
class CausalLM(Task):
    """Language modelling from left to right, on windows of running text without overlap."""

    name = "causal_lm"
    divergence_name = "KL"
    pipeline_tag = "text-generation"
    has_loss_without_labels = True
    auto_class = "AutoModelForCausalLM"
    needs_labels_for_metric = False

    def read(
        self,
        source: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        columns: Columns,
        batch_size: int,
        sequence_length: int,
        calibration_samples: int,
        seed: int,
        evaluation_samples: int | None = None,
    ) -> TaskData:
        """See ``Task.read``; a sample is a window of ``sequence_length`` tokens."""
        if sequence_length < 3:
            raise DataError(f"sequence_length {sequence_length} is too short for next tokens; give at least 3")
        encode = Encode.for_model(model, tokenizer, sequence_length)
        division = divide(source, read_splits(source), usable=lambda rows: True, seed=seed, contiguous=True)
        assert division.held_out is not None
        train = Windows(encode, self._texts(division.rows, columns, tokenizer, f"{source} ({division.rows_name})"))
        texts = self._texts(division.held_out, columns, tokenizer, f"{source} ({division.held_out_name})")
        held_out = Windows(encode, texts, partial=True)
        calibration = train.sample(calibration_samples, seed)
        for windows, what in ((calibration, "calibrate on"), (held_out, "evaluate on")):
            if not len(windows):
                raise DataError(f"{source} has less text than one window of {sequence_length} tokens to {what}")
        collate = Collate.like(tokenizer)
        chosen = [held_out[i] for i in sample(len(held_out), evaluation_samples, seed)]
        details = {"window": sequence_length, "stride": sequence_length - len(train.opening), "windows": len(chosen)}
        windows = f"windows of {sequence_length} tokens"
        return TaskData(
            calibration=_batches(calibration, batch_size, collate),
            calibration_labels=True,
            evaluation=Passages(_batches(chosen, batch_size, collate), details, _bytewise(tokenizer)),
            train=train if division.trainable else None,
            collate=collate,
            description=(
                f"{source}: {len(calibration)} {windows} to calibrate ({division.rows_name}), "
                f"{len(chosen)} to evaluate ({division.held_out_name})"
            ),
        )

    @staticmethod
    def _texts(rows: Any, columns: Columns, tokenizer: PreTrainedTokenizerBase, source: str) -> list[str]:
        return joined(texts_of(rows, find_texts(columns, rows, source).text, source), tokenizer)

    def signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at no more than 64 positions a sequence, evenly spaced over those that have a next token.

        Fewer where the vocabulary is larger than 16384, so that those of hundreds of sequences fit into memory.
        """
        logits = outputs.logits
        most = max(1, min(POSITIONS, LOGITS // logits.shape[-1]))
        rows, positions = _spread(batch["attention_mask"], most)
        return logits[rows.to(logits.device), positions.to(logits.device)]

    def full_signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at every position."""
        return outputs.logits[batch["attention_mask"].bool().to(outputs.logits.device)]

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the next token, in nats."""
        return kl_divergence(student, teacher)

    def inputs_for_loss(self, model: Any, batch: Batch) -> Batch:
        """With labels for a model that computes their loss without the scores of its whole vocabulary."""
        inputs = model_inputs(batch)
        if not getattr(model, "loss_without_logits", False):
            return inputs
        return inputs | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the next token, in nats; padding is ignored."""
        if outputs.logits is None:  # the model was given labels: see ``inputs_for_loss``
            return outputs.loss
        total, count = _nll(outputs.logits, batch)
        return total / count

    def evaluate(self, model: PreTrainedModel, evaluation: Passages, device: torch.device | str) -> Score:
        """Perplexity, the exponential of the mean nats a token; tokens are weighed alike, whatever their window.

        Of bytes: bits per byte, which papers on enwik8 call bits per character.
        """
        nats, tokens = 0.0, 0
        for outputs, batch in forward(model, evaluation.batches, device, partial(self.inputs_for_loss, model)):
            count = int(_has_next(batch["attention_mask"]).sum())
            nats, tokens = nats + self.loss(outputs, batch).double().item() * count, tokens + count
        mean = nats / tokens
        details = {**evaluation.details, "nats_per_token": mean}
        if evaluation.bytewise:
            return Score("bits per byte", mean / math.log(2), higher_is_better=False, count=tokens, details=details)
        value = math.exp(mean) if mean < 700 else math.inf
        return Score("perplexity", value, higher_is_better=False, count=tokens, details=details)


def _bytewise(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token is a byte of UTF-8: no tokens to spare, and one for each byte of letters of any length."""
    probe = "a b\n\u00e9\u8a9e"
    ids: Any = tokenizer(probe, add_special_tokens=False)["input_ids"]
    return len(tokenizer) - len(tokenizer.all_special_ids) <= 256 and len(ids) == len(probe.encode())


def _batches(windows: list[dict[str, Any]], batch_size: int, collate: Collate) -> list[Batch]:
    return [collate(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]


def _has_next(mask: Int[Tensor, "sequences positions"]) -> Bool[Tensor, "sequences positions_but_last"]:
    return mask[:, 1:].bool() & mask[:, :-1].bool()


def _spread(mask: Int[Tensor, "sequences positions"], most: int) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Sequence and position of every row of the signal."""
    chosen: list[Tensor] = []
    for valid in _has_next(mask.cpu()):  # a GPU would be waited for at every sequence
        positions = valid.nonzero().flatten()
        if len(positions) > most:
            spaced = torch.linspace(0, len(positions) - 1, most, dtype=torch.float64).round().long()
            positions = positions[spaced]
        chosen.append(positions)
    sequences = [torch.full_like(positions, index) for index, positions in enumerate(chosen)]
    return torch.cat(sequences), torch.cat(chosen)


def _nll(logits: Float[Tensor, "sequences positions words"], batch: Batch) -> tuple[Float[Tensor, ""], int]:
    """Summed nats of the next tokens, and how many there are."""
    valid = _has_next(batch["attention_mask"]).to(logits.device)
    targets = batch["input_ids"].to(logits.device)[:, 1:].masked_fill(~valid, IGNORED)
    # One sequence at a time: the softmax of a whole batch over a large vocabulary would double the memory.
    sums = [
        functional.cross_entropy(logits[i, :-1].float(), targets[i], ignore_index=IGNORED, reduction="sum")
        for i in range(len(logits))
    ]
    return torch.stack(sums).sum(), int(valid.sum())
