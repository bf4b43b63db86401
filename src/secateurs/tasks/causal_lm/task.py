"""Prediction of the next token of running text, scored by perplexity, or by bits per byte for byte tokenizers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from secateurs.errors import DataError
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.answers import AnswerScores
from secateurs.tasks.base import Batch, Columns, DataRequest, Score, Task, TaskData, model_inputs
from secateurs.tasks.causal_lm.windows import WindowPool, Windows, join_rows, refuse_parts, rows_are
from secateurs.tasks.data.batches import IGNORED, Collate, forward, sample
from secateurs.tasks.data.columns import find_texts, skip_empty, texts_of
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import about_skipped, about_splits
from secateurs.tasks.metrics.next_tokens import (
    MAX_LOGITS,
    MAX_POSITIONS,
    has_next,
    next_token_nll,
    nll_of_texts,
    spread,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CausalLM"]


@dataclass(frozen=True)
class HeldOutWindows:
    """Held-out windows of text.

    Args:
        batches: batches of windows.
        details: details of the score.
        bytewise: whether every token is one byte.
    """

    batches: list[Batch]
    details: dict[str, Any]
    bytewise: bool = False


@final
class CausalLM(Task):
    """Causal language modelling on windows of running text without overlap."""

    name = "causal_lm"
    divergence_name = "KL"
    pipeline_tag = "text-generation"
    has_loss_without_labels = True
    auto_class = "AutoModelForCausalLM"
    needs_labels_for_metric = False
    texts_to_choose = 1024
    texts_to_report = 256

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. A sample is a window of ``sequence_length`` tokens."""
        source, columns = request.source, request.columns
        if request.sequence_length < 3:
            raise DataError(f"sequence_length {request.sequence_length} is too short for next tokens; give at least 3")
        encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
        everything = read_splits(source)
        refuse_parts(everything, columns, source)
        splits = skip_empty(everything, columns, source)
        division = divide(source, splits, usable=lambda rows: True, seed=request.seed, contiguous=True)
        assert division.held_out is not None
        train = Windows(
            encode, self._texts(division.rows, columns, request.tokenizer, f"{source} ({division.rows_name})")
        )
        texts = self._texts(division.held_out, columns, request.tokenizer, f"{source} ({division.held_out_name})")
        held_out = Windows(encode, texts, partial=True)
        sizes = request.roles
        pool = train.pool(sizes.fit + sizes.search + sizes.accept + sizes.choose)
        for found, what in ((pool.text_keys(), "calibrate on"), (held_out, "evaluate on")):
            if not len(found):
                raise DataError(f"{source} has less text than one window of {request.sequence_length} tokens to {what}")
        collate = Collate.like(request.tokenizer)
        chosen = [held_out[i] for i in sample(len(held_out), request.evaluation_samples, request.seed)]
        details = {
            "window": request.sequence_length,
            "stride": request.sequence_length - len(train.start_tokens),
            "windows": len(chosen),
        }
        drawn, rest = draw_roles(
            pool,
            WindowPool(chosen, encode),
            request.roles,
            split=division.rows_name,
            held_out_split=division.held_out_name,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        windows = f"windows of {request.sequence_length} tokens"
        column = find_texts(columns, division.rows, source).text
        unused = [name for name in division.rows.column_names if name != column]
        about = [
            *about_splits(division, splits),
            *about_skipped(everything, splits),
            ("columns", f"text is {column!r}" + (f"; not used: {', '.join(unused)}" if unused else "")),
            ("text", f"rows are {rows_are(train.texts)}; their text is divided into {windows}"),
        ]
        return TaskData(
            roles=drawn,
            calibration_labels=True,
            evaluation=HeldOutWindows(
                _batches(chosen, request.batch_size, collate), details, _bytewise(encode.tokenizer)
            ),
            train=rest if division.trainable else None,
            collate=collate,
            description=(
                f"{source}: {drawn.fit.rows} {windows} to calibrate ({division.rows_name}), "
                f"{len(chosen)} to evaluate ({division.held_out_name})"
            ),
            understood=tuple(about),
        )

    @staticmethod
    def _texts(rows: Dataset, columns: Columns, tokenizer: PreTrainedTokenizerBase, source: str) -> list[str]:
        return join_rows(texts_of(rows, find_texts(columns, rows, source).text, source), tokenizer)

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at up to 64 positions per sequence, evenly spaced over the positions that have a next token.

        With a vocabulary of more than 16384 tokens there are fewer positions, so that the logits of hundreds of
        sequences fit into memory.
        """
        logits = outputs.logits
        most = max(1, min(MAX_POSITIONS, MAX_LOGITS // logits.shape[-1]))
        rows, positions = spread(batch["attention_mask"], most)
        return logits[rows.to(logits.device), positions.to(logits.device)]

    def all_compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at every position."""
        return outputs.logits[batch["attention_mask"].bool().to(outputs.logits.device)]

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the next token, in nats."""
        return kl_divergence(student, teacher)

    def inputs_for_loss(self, model: Any, batch: Batch) -> Batch:
        """See ``Task.inputs_for_loss``. A model with ``loss_without_logits`` gets labels and returns the loss itself.

        Such a model computes the loss without the logits of the full vocabulary.
        """
        inputs = model_inputs(batch)
        if not getattr(model, "loss_without_logits", False):
            return inputs
        return inputs | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: nats and number of the predicted tokens."""
        return nll_of_texts(outputs.logits, batch["input_ids"], batch["attention_mask"])

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``: the kept fraction is the ratio of perplexities."""
        return AnswerScores("likelihood of a token", ours, dense, nats=True)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the next token, in nats; padding is ignored."""
        if outputs.logits is None:  # the model got labels, see ``inputs_for_loss``
            return outputs.loss
        total, count = next_token_nll(outputs.logits, batch["input_ids"], batch["attention_mask"])
        return total / count

    def evaluate(self, model: PreTrainedModel, evaluation: HeldOutWindows, device: torch.device | str) -> Score:
        """Perplexity, ``exp(mean nats per token)``; every token has the same weight, whatever the length of its window.

        For a byte tokenizer: bits per byte, ``mean nats per token / ln 2``, which papers on enwik8 call bits per
        character.
        """
        nats, tokens = 0.0, 0
        for outputs, batch in forward(model, evaluation.batches, device, partial(self.inputs_for_loss, model)):
            count = int(has_next(batch["attention_mask"]).sum())
            nats, tokens = nats + self.loss(outputs, batch).double().item() * count, tokens + count
        mean = nats / tokens
        details = {**evaluation.details, "nats_per_token": mean}
        if evaluation.bytewise:
            return Score("bits per byte", mean / math.log(2), higher_is_better=False, count=tokens, details=details)
        value = math.exp(mean) if mean < 700 else math.inf
        return Score("perplexity", value, higher_is_better=False, count=tokens, details=details)


def _bytewise(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token is one byte of UTF-8.

    The vocabulary must have at most 256 tokens besides special tokens, and a text with characters of one, two and three
    bytes must have one token per byte.
    """
    probe = "a b\n\u00e9\u8a9e"
    ids: Any = tokenizer(probe, add_special_tokens=False)["input_ids"]
    return len(tokenizer) - len(tokenizer.all_special_ids) <= 256 and len(ids) == len(probe.encode())


def _batches(windows: list[dict[str, Any]], batch_size: int, collate: Collate) -> list[Batch]:
    return [collate(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]
