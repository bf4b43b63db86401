"""Classification of words (entities, slots, parts of speech).

The metric is entity F1, or accuracy where no label marks an entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.answers import AGREEMENT, AnswerScores
from secateurs.tasks.base import Batch, Columns, DataRequest, Score, Task, TaskData, Understood
from secateurs.tasks.data.batches import IGNORED, Collate, forward, ordered_batches, sample
from secateurs.tasks.data.columns import check_label, find_column
from secateurs.tasks.data.draw_roles import draw_roles
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.data.understood import NOT_EVALUATED, about_columns, about_skipped, about_splits
from secateurs.tasks.metrics.entity_f1 import are_chunks, entities, score_entities
from secateurs.tasks.token_classification.tags import WORDS, Tags, skip_wordless, words_of
from secateurs.tasks.token_classification.word_rows import WordRows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

__all__ = ["TokenClassification"]


@dataclass(frozen=True)
class HeldOutSentences:
    """Held-out sentences.

    Args:
        batches: batches of sentences.
        labels: names of the classes of the model.
        words_cut_off: number of words behind the end of their truncated sequence.
    """

    batches: list[Batch]
    labels: tuple[str, ...]
    words_cut_off: int


@final
class TokenClassification(Task):
    """One tag per word. The tag is predicted at the first token of the word; the loss mask excludes all other tokens."""

    name = "token_classification"
    divergence_name = "KL"
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    needs_labels_for_metric = True

    def __init__(self) -> None:
        self.labels: tuple[str, ...] = ()
        """Names of the classes, of the data that was read last."""

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. ``columns.text`` names the column of the words, ``columns.label`` that of their tags."""
        source, columns = request.source, request.columns
        encode = Encode.for_model(request.model, request.tokenizer, request.sequence_length)
        tags = Tags(request.model.config, columns, source)
        self.labels = tags.classes.names
        everything = read_splits(source)
        check_label(columns, everything, source)
        tags.choose(everything)
        splits = skip_wordless(everything, tags.columns, source)
        division = divide(source, splits, usable=tags.present, seed=request.seed)
        about = [
            *about_splits(division, splits),
            *about_skipped(everything, splits),
            self._about_columns(division.rows, tags, source),
            *tags.prepare(division.parts),
        ]
        rows = self._rows(division.rows, encode, tags, columns, f"{source} ({division.rows_name})")
        evaluation, evaluated, compared = None, "none to evaluate (no tags)", None
        if division.held_out is not None:
            chosen = division.held_out.select(sample(len(division.held_out), request.evaluation_samples, request.seed))
            compared = held_out = self._rows(chosen, encode, tags, columns, f"{source} ({division.held_out_name})")
            batches = ordered_batches(held_out, request.batch_size).batches
            fitting = sum(int(batch["loss_mask"].sum()) for batch in batches)
            if not any((batch["labels"] != IGNORED).any() for batch in batches):
                raise DataError(
                    f"{source} ({division.held_out_name}) has no tagged word within {request.sequence_length} tokens"
                )
            evaluation = HeldOutSentences(batches, tags.classes.names, sum(map(len, held_out.words)) - fitting)
            evaluated = f"{len(held_out)} rows to evaluate ({division.held_out_name})"
        else:
            about.append(NOT_EVALUATED)
        if division.unlabelled is not None:
            where = f"{source} ({division.held_out_name})"
            compared = self._rows(division.unlabelled, encode, tags, columns, where)
        drawn, train = draw_roles(
            rows,
            compared,
            request.roles,
            split=division.rows_name,
            held_out_split=division.held_out_name,
            batch_size=request.batch_size,
            seed=request.seed,
        )
        if not all(batch["loss_mask"].any() for role in drawn.by_name.values() for batch in role.batches):
            raise DataError(f"sequence_length {request.sequence_length} leaves no room for words; give at least 3")
        return TaskData(
            roles=drawn,
            calibration_labels=rows.tags is not None,
            evaluation=evaluation,
            train=train if division.trainable else None,
            collate=Collate.like(request.tokenizer, token_labels=True),
            description=(
                f"{source}: {drawn.fit.rows} of {len(rows)} {division.rows_name} rows to calibrate, {evaluated}"
            ),
            understood=tuple(about),
        )

    @staticmethod
    def _rows(data: Dataset, encode: Encode, tags: Tags, columns: Columns, source: str) -> WordRows:
        words = words_of(data, columns, source)
        return WordRows(encode, words, tags.read(data, words, source) if tags.present(data) else None)

    @staticmethod
    def _about_columns(rows: Dataset, tags: Tags, source: str) -> Understood:
        words = find_column(tags.columns.text, "text", WORDS, rows, source)
        return about_columns(
            {"list of words": words}, tags.column(rows), "list of tags", tags.columns, rows.column_names
        )

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at the first token of every word, one row per word."""
        return outputs.logits[batch["loss_mask"].to(outputs.logits.device).bool()]

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the distributions over tags, in nats."""
        return kl_divergence(student, teacher)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the tag of every token; -1 at tokens that are not the first of a word."""
        return outputs.logits.argmax(-1).masked_fill(~batch["loss_mask"].to(outputs.logits.device).bool(), -1)

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``: entity F1, or the accuracy of the tags where no label marks an entity."""
        labels = batch.get("labels")
        truth = dense if labels is None else labels
        scored = (truth != IGNORED) & (dense != -1)
        score = self._entity_scores if are_chunks(self.labels) else _tag_scores
        measure = AGREEMENT if labels is None else "entity F1" if are_chunks(self.labels) else "accuracy"
        return AnswerScores(measure, score(ours, truth, scored), score(dense, truth, scored))

    def _entity_scores(
        self,
        tags: Int[Tensor, "texts tokens"],
        truth: Int[Tensor, "texts tokens"],
        scored: Bool[Tensor, "texts tokens"],
    ) -> Float[Tensor, "texts 2"]:
        """``2 correct`` and ``predicted + true`` entities of every text; their sums over texts make F1."""
        rows = []
        for given, right, place in zip(tags, truth, scored, strict=True):
            ours, true = (entities([self.labels[tag] for tag in side[place].tolist()]) for side in (given, right))
            rows.append([2.0 * len(ours & true), float(len(ours) + len(true))])
        return torch.tensor(rows)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of the tags, in nats; every word of the batch has the same weight."""
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of token_classification needs a column of tags")
        logits, labels = outputs.logits, batch["labels"].to(outputs.logits.device)
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def evaluate(self, model: PreTrainedModel, evaluation: HeldOutSentences, device: torch.device | str) -> Score:
        """Entity F1 (an entity must be correct in type, first and last word), or the accuracy of the tags.

        Accuracy is used if no label marks an entity. F1 is the micro average over all entities, with precision, recall
        and accuracy in the details. Words behind the end of a truncated sequence are not counted in the metric; their
        number is in the details.
        """
        true: list[list[str]] = []
        predicted: list[list[str]] = []
        for outputs, batch in forward(model, evaluation.batches, device):
            for classes, labels in zip(outputs.logits.argmax(-1).tolist(), batch["labels"].tolist(), strict=True):
                pairs = [(tag, label) for tag, label in zip(classes, labels, strict=True) if label != IGNORED]
                predicted.append([evaluation.labels[tag] for tag, _ in pairs])
                true.append([evaluation.labels[label] for _, label in pairs])
        count = sum(map(len, true))
        hits = sum(
            tag == label
            for predicted_tags, true_tags in zip(predicted, true, strict=True)
            for tag, label in zip(predicted_tags, true_tags, strict=True)
        )
        accuracy = hits / count
        details: dict[str, Any] = {"words_cut_off": evaluation.words_cut_off}
        if not are_chunks(evaluation.labels):
            return Score("accuracy", accuracy, higher_is_better=True, count=count, details=details)
        score = score_entities(true, predicted)
        details |= {
            "precision": score.precision,
            "recall": score.recall,
            "accuracy": accuracy,
            "entities": score.num_true,
        }
        return Score("entity_f1", score.f1, higher_is_better=True, count=count, details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``. The columns hold lists of words, and a class index for every word."""
        words = [text.split() for text in texts]
        columns: dict[str, list[Any]] = {"tokens": words}
        return {**columns, "tags": [[len(word) % 2 for word in row] for row in words]} if labelled else columns


def _tag_scores(
    tags: Int[Tensor, "texts tokens"], truth: Int[Tensor, "texts tokens"], scored: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts 2"]:
    """Right tags and number of tags of every text."""
    return torch.stack([((tags == truth) & scored).sum(-1), scored.sum(-1)], -1).float()
