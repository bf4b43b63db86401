"""Classification of texts that may have several classes each, or none, scored by micro-averaged F1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.numerics.divergence import kl_direction, kl_divergence
from secateurs.tasks.answers import AnswerScores, scored_by_equality
from secateurs.tasks.base import Batch, DataRequest, Score, Task, TaskData
from secateurs.tasks.data.batches import forward
from secateurs.tasks.data.classes import ModelClasses
from secateurs.tasks.data.labelled_texts import read_labelled_texts
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.metrics.multi_label_f1 import score_classes
from secateurs.tasks.multi_label_classification.class_columns import JOINED, join_class_columns
from secateurs.tasks.multi_label_classification.class_sets import ClassSets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

__all__ = ["MultiLabelClassification"]


@final
class MultiLabelClassification(Task):
    """Every output of the model is the logit of one class; a class is predicted where its logit is above 0."""

    name = "multi_label_classification"
    divergence_name = "KL"
    pipeline_tag = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    needs_labels_for_metric = True

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. Labels are lists of classes, lists of 0 and 1, or one column of 0 and 1 per class."""
        source, columns = request.source, request.columns
        problem = getattr(request.model.config, "problem_type", None)
        if problem not in (None, "multi_label_classification"):
            raise UnsupportedModelError(f"the model solves {problem}; use --task text-classification")
        classes = ModelClasses.of(request.model.config)
        splits = join_class_columns(read_splits(source), classes, columns, source)
        if any(JOINED in rows.column_names for rows in splits.values()):
            columns = replace(columns, label=JOINED)
        labels = ClassSets(classes, columns, source)
        return read_labelled_texts(replace(request, columns=columns), labels, splits)

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """One row per text: for every class, 0 and the logit, whose softmax is the probability of not having the class.

        In this form a shift of all logits is a change, as it should be; a softmax over the classes would ignore it.
        """
        logits = outputs.logits
        return torch.stack([torch.zeros_like(logits), logits], -1).flatten(1)

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) in nats: the sum over the classes of the divergences of Bernoulli distributions."""
        pairs = (side.unflatten(-1, (-1, 2)).flatten(0, 1) for side in (student, teacher))
        return kl_divergence(*pairs).unflatten(0, (len(student), -1)).sum(-1)

    def direction(
        self, teacher: Float[Tensor, "rows features"], noise: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows features"]:
        """See ``Task.direction``: a direction of its own for every class."""
        pairs = (side.unflatten(-1, (-1, 2)).flatten(0, 1) for side in (teacher, noise))
        return kl_direction(*pairs).view(teacher.shape)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the classes with a probability above one half."""
        return outputs.logits > 0

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """See ``Answers.score_answers``: an answer is right if all of its classes are."""
        labels = batch["labels"] > 0.5 if "labels" in batch else None
        return scored_by_equality(ours, dense, labels, "share of texts with all classes right")

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean binary cross-entropy over texts and classes, in nats."""
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of multi_label_classification needs a label column")
        logits = outputs.logits.float()
        return functional.binary_cross_entropy_with_logits(logits, batch["labels"].to(logits.device).float())

    def evaluate(self, model: PreTrainedModel, evaluation: list[Batch], device: torch.device | str) -> Score:
        """F1 of all decisions, one per text and class (micro average). The details hold the macro average, among others."""
        predicted, true = [], []
        for outputs, batch in forward(model, evaluation, device):
            predicted.append(outputs.logits.float().cpu() > 0)
            true.append(batch["labels"].cpu() > 0.5)
        found = score_classes(torch.cat(predicted), torch.cat(true))
        details = {
            "macro_f1": found.macro_f1,
            "precision": found.precision,
            "recall": found.recall,
            "subset_accuracy": found.subset_accuracy,
        }
        return Score("micro F1", found.micro_f1, higher_is_better=True, count=sum(map(len, true)), details=details)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """See ``Task.example``. The labels are lists of the classes 0 and 1; some lists are empty."""
        columns: dict[str, list[Any]] = {"text": list(texts)}
        return {**columns, "labels": [[0, 1][: index % 3] for index in range(len(texts))]} if labelled else columns
