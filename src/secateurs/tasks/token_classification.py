"""A class for every word (entities, slots, parts of speech): entity F1, or accuracy where the labels mark no entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError
from secateurs.tasks import Batch, Columns, Score, Task, TaskData
from secateurs.tasks._batches import IGNORED, Collate, Encode, calibration_batches, forward, ordered_batches, sample
from secateurs.tasks._columns import check_label
from secateurs.tasks._divergence import kl_divergence
from secateurs.tasks._entities import are_chunks, found
from secateurs.tasks._sources import divide, read_splits
from secateurs.tasks._tags import Tags, WordRows, words_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TokenClassification"]


@dataclass(frozen=True)
class Sentences:
    """Held-out sentences, what the model's classes are called, and how many words did not fit into the sequences."""

    batches: list[Batch]
    labels: tuple[str, ...]
    cut_off: int


@final
class TokenClassification(Task):
    """A tag for every word: the first token of a word stands for it, the others are not judged."""

    name = "token_classification"
    divergence_name = "KL"
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    needs_labels_for_metric = True

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
        """See ``Task.read``. ``columns.text`` holds the words, ``columns.label`` a tag for each of them."""
        encode = Encode.for_model(model, tokenizer, sequence_length)
        tags = Tags(model.config, columns)
        splits = read_splits(source)
        check_label(columns, splits, source)
        division = divide(source, splits, usable=tags.present, seed=seed)
        rows = self._rows(division.rows, encode, tags, columns, f"{source} ({division.rows_name})")
        evaluation, evaluated = None, 0
        if division.held_out is not None:
            chosen = division.held_out.select(sample(len(division.held_out), evaluation_samples, seed))
            held_out = self._rows(chosen, encode, tags, columns, f"{source} ({division.held_out_name})")
            batches = ordered_batches(held_out, batch_size).batches
            fitting = sum(int(batch["judged"].sum()) for batch in batches)
            if not any((batch["labels"] != IGNORED).any() for batch in batches):
                raise DataError(
                    f"{source} ({division.held_out_name}) has no tagged word within {sequence_length} tokens"
                )
            evaluation = Sentences(batches, tags.labels, sum(map(len, held_out.words)) - fitting)
            evaluated = len(held_out)
        calibration = calibration_batches(rows, calibration_samples, batch_size, seed)
        if not all(batch["judged"].any() for batch in calibration):
            raise DataError(f"sequence_length {sequence_length} leaves no room for words; give at least 3")
        count = sum(len(batch["input_ids"]) for batch in calibration)
        return TaskData(
            calibration=calibration,
            calibration_labels=rows.tags is not None,
            evaluation=evaluation,
            train=rows if division.trainable else None,
            collate=Collate.like(tokenizer, token_labels=True),
            description=(
                f"{source}: {count} of {len(rows)} {division.rows_name} rows to calibrate, "
                f"{evaluated} rows to evaluate ({division.held_out_name})"
            ),
        )

    @staticmethod
    def _rows(data: Dataset, encode: Encode, tags: Tags, columns: Columns, source: str) -> WordRows:
        words = words_of(data, columns, source)
        return WordRows(encode, words, tags.read(data, words, source) if tags.present(data) else None)

    def signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits at the first token of every word, one row a word."""
        return outputs.logits[batch["judged"].to(outputs.logits.device).bool()]

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) of the tag of a word, in nats."""
        return kl_divergence(student, teacher)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of the tags, in nats; every word of the batch weighs the same."""
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of token_classification needs a column of tags")
        logits, labels = outputs.logits, batch["labels"].to(outputs.logits.device)
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def evaluate(self, model: PreTrainedModel, evaluation: Sentences, device: torch.device | str) -> Score:
        """F1 of entities that are right in type and extent, or the share of right tags where labels mark no entities.

        The F1 is the micro average, with precision, recall and accuracy in the details. Words behind the end of the
        sequence are neither asked for nor counted; the details say how many.
        """
        true: list[list[str]] = []
        predicted: list[list[str]] = []
        for outputs, batch in forward(model, evaluation.batches, device):
            for ours, theirs in zip(outputs.logits.argmax(-1).tolist(), batch["labels"].tolist(), strict=True):
                pairs = [(tag, label) for tag, label in zip(ours, theirs, strict=True) if label != IGNORED]
                predicted.append([evaluation.labels[tag] for tag, _ in pairs])
                true.append([evaluation.labels[label] for _, label in pairs])
        count = sum(map(len, true))
        hits = sum(
            tag == label
            for ours, theirs in zip(predicted, true, strict=True)
            for tag, label in zip(ours, theirs, strict=True)
        )
        accuracy = hits / count
        details: dict[str, Any] = {"words_cut_off": evaluation.cut_off}
        if not are_chunks(evaluation.labels):
            return Score("accuracy", accuracy, higher_is_better=True, count=count, details=details)
        score = found(true, predicted)
        details |= {
            "precision": score.precision,
            "recall": score.recall,
            "accuracy": accuracy,
            "entities": score.wanted,
        }
        return Score("entity_f1", score.f1, higher_is_better=True, count=count, details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``: lists of words, with a number for every word."""
        words = [text.split() for text in texts]
        columns: dict[str, list[Any]] = {"tokens": words}
        return {**columns, "tags": [[len(word) % 2 for word in row] for row in words]} if labelled else columns
