"""Summaries, translations and other targets that an encoder-decoder writes.

The metric is the perplexity of the references, or ROUGE, chrF or BLEU of texts that the model generates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from secateurs.errors import DataError
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.answers import AnswerScores
from secateurs.tasks.base import Batch, DataRequest, Score, Task, TaskData
from secateurs.tasks.data.batches import forward, sample
from secateurs.tasks.data.columns import skip_empty, texts_of
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import about_skipped, about_splits
from secateurs.tasks.metrics.generated_texts import METRICS, check_library, score_texts
from secateurs.tasks.metrics.next_tokens import (
    MAX_LOGITS,
    MAX_POSITIONS,
    has_next,
    next_token_nll,
    nll_of_texts,
    spread,
)
from secateurs.tasks.seq2seq.held_out import HeldOutPairs, check_length, generated_texts
from secateurs.tasks.seq2seq.pairs import SourceTargetRows, find_pair, named_languages, start_token, with_languages

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

__all__ = ["Seq2Seq"]


@final
class Seq2Seq(Task):
    """Prediction of a target text from a source text, with teacher forcing."""

    name = "seq2seq"
    divergence_name = "KL"
    auto_class = "AutoModelForSeq2SeqLM"
    needs_labels_for_metric = False
    has_loss_without_labels = True
    metrics = ("perplexity", *METRICS)

    def check_metric(self, metric: str | None) -> None:
        """See ``Task.check_metric``."""
        super().check_metric(metric)
        if metric in METRICS:
            check_library(metric)

    texts_to_choose = 1024
    texts_to_report = 256

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. A row has a source and a target, each of at most ``sequence_length`` tokens."""
        source = request.source
        if request.sequence_length < 3:
            raise DataError(f"sequence_length {request.sequence_length} is too short for a target; give at least 3")
        encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
        start = start_token(request.model)
        metric, length = request.metric or self.metrics[0], request.max_new_tokens or request.sequence_length
        if metric in METRICS:
            check_length(request.model, length)
        everything = with_languages(read_splits(source))
        filled = next(rows for rows in everything.values() if len(rows))
        columns = find_pair(named_languages(request.columns, request.tokenizer, filled), filled, source)
        splits = skip_empty(everything, columns, source)
        division = divide(
            source,
            splits,
            usable=lambda rows: {columns.text, columns.text_pair} <= {*rows.column_names},
            seed=request.seed,
            together=lambda rows: columns.text,
        )
        assert division.held_out is not None

        def rows_of(rows: Dataset, name: str) -> SourceTargetRows:
            own = find_pair(columns, rows, f"{source} ({name})")
            assert own.text is not None and own.text_pair is not None
            texts, targets = (texts_of(rows, column, f"{source} ({name})") for column in (own.text, own.text_pair))
            return SourceTargetRows(encode, texts, targets, start)

        rows = rows_of(division.rows, division.rows_name)
        whole = division.held_out
        chosen = whole.select(sample(len(whole), request.evaluation_samples, request.seed))
        held_out = rows_of(chosen, division.held_out_name)
        roles, train = draw_roles(
            rows,
            held_out,
            request.roles,
            split=division.rows_name,
            held_out_split=division.held_out_name,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        unused = [name for name in division.rows.column_names if name not in (columns.text, columns.text_pair)]
        about = (
            *about_splits(division, splits),
            *about_skipped(everything, splits),
            (
                "columns",
                f"source is {columns.text!r}, target is {columns.text_pair!r}"
                + (f"; not used: {', '.join(unused)}" if unused else ""),
            ),
        )
        return TaskData(
            roles=roles,
            calibration_labels=True,
            evaluation=HeldOutPairs.of(held_out, request.batch_size, metric, length),
            train=train if division.trainable else None,
            collate=rows.collate,
            description=(
                f"{source}: {roles.fit.rows} of {len(rows)} {division.rows_name} rows to calibrate, "
                f"{len(held_out)} rows to evaluate ({division.held_out_name})"
            ),
            understood=about,
        )

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at up to 64 positions per target, evenly spaced; fewer with a large vocabulary."""
        logits = outputs.logits
        most = max(1, min(MAX_POSITIONS, MAX_LOGITS // logits.shape[-1]))
        rows, positions = spread(batch["decoder_attention_mask"], most)
        return logits[rows.to(logits.device), positions.to(logits.device)]

    def all_compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at every position that predicts a token of the target."""
        return outputs.logits[:, :-1][has_next(batch["decoder_attention_mask"]).to(outputs.logits.device)]

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the next token of the target, in nats."""
        return kl_divergence(student, teacher)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: nats and number of the predicted tokens."""
        return nll_of_texts(outputs.logits, batch["decoder_input_ids"], batch["decoder_attention_mask"])

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``: the kept fraction is the ratio of perplexities."""
        return AnswerScores("likelihood of a token of the references", ours, dense, nats=True)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the tokens of the targets, in nats; padding is ignored."""
        total, count = next_token_nll(outputs.logits, batch["decoder_input_ids"], batch["decoder_attention_mask"])
        return total / count

    def evaluate(self, model: PreTrainedModel, evaluation: HeldOutPairs, device: torch.device | str) -> Score:
        """The metric of the recipe. ROUGE, chrF and BLEU compare generated texts with the references.

        The perplexity of the references is ``exp(mean nats per token of the targets)``; every token has the same weight.
        """
        if evaluation.metric in METRICS:
            score = score_texts(evaluation.metric, generated_texts(model, evaluation, device), evaluation.references)
            return replace(score, details={**score.details, "max_new_tokens": evaluation.max_new_tokens})
        nats, tokens = 0.0, 0
        for outputs, batch in forward(model, evaluation.batches, device):
            total, count = next_token_nll(outputs.logits, batch["decoder_input_ids"], batch["decoder_attention_mask"])
            nats, tokens = nats + total.double().item(), tokens + count
        mean = nats / tokens
        value = math.exp(mean) if mean < 700 else math.inf
        details = {"nats_per_token": mean, "targets": len(evaluation.references)}
        return Score("perplexity", value, higher_is_better=False, count=tokens, details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``. The target of a text is its first half; a row without a target says nothing."""
        halves = [" ".join(text.split()[: max(1, len(text.split()) // 2)]) for text in texts]
        return {"source": list(texts), "target": halves}
