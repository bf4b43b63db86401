"""Classification of texts or pairs of texts, scored by accuracy; regression, scored by Spearman's rank correlation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError, RecipeError
from secateurs.numerics.divergence import kl_direction, kl_divergence
from secateurs.tasks.base import Batch, DataRequest, Score, Task, TaskData
from secateurs.tasks.data.batches import forward
from secateurs.tasks.data.labelled_texts import read_labelled_texts
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.metrics.correlation import correlation
from secateurs.tasks.text_classification.labels import ClassLabels
from secateurs.tasks.text_classification.triplets import Triplets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TextClassification"]


@final
class TextClassification(Task):
    """Classification of texts or pairs of texts; regression if the model has one output."""

    name = "text_classification"
    divergence_name = "KL"
    pipeline_tag = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    needs_labels_for_metric = True

    def load(self, source: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """See ``Task.load``. If the model has one output, the divergence is the squared error."""
        model, tokenizer = super().load(source, **options)
        self.divergence_name = "squared error" if model.config.num_labels == 1 else "KL"
        return model, tokenizer

    def read_data(self, request: DataRequest) -> TaskData:
        """See ``Task.read_data``. Classes are matched by name, case aside; triplets of a reranker become pairs."""
        source, columns, config = request.source, request.columns, request.model.config
        labels = ClassLabels(config, columns, source)
        splits = read_splits(source)
        triplets = Triplets.find(columns, next(rows for rows in splits.values() if len(rows)))
        if triplets is None:
            return read_labelled_texts(request, labels, splits)
        taken = (
            f"{triplets.query!r} with {triplets.positive!r} is a pair of class 1, with {triplets.negative!r} of class 0"
        )
        if len(labels.classes) > 2:
            raise DataError(
                f"{source} has triplets ({taken}), and the model has {len(labels.classes)} classes; choose "
                f"--text-column {triplets.query} to read single texts, or use a model with one output or two"
            )
        pair_columns = triplets.columns(columns)
        return read_labelled_texts(
            replace(request, columns=pair_columns),
            ClassLabels(config, pair_columns, f"{source}, triplets read as pairs"),
            splits,
            expand=triplets.pairs,
            together=triplets.query,
            taken=("columns", taken),
        )

    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The logits, one row per text."""
        return outputs.logits

    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """KL(teacher || student) in nats, or the squared error if the model has one output."""
        if student.shape[-1] == 1:
            return (student - teacher).square().sum(-1)
        return kl_divergence(student, teacher)

    def direction(
        self, teacher: Float[Tensor, "rows features"], noise: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows features"]:
        """See ``Task.direction``; the squared error has the curvature 2."""
        return 2**0.5 * noise if teacher.shape[-1] == 1 else kl_direction(teacher, noise)

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """See ``Answers.answers``: the most probable class."""
        if outputs.logits.shape[-1] == 1:
            raise RecipeError("keep needs classes, and the model has one output, a number; give a speed-up")
        return outputs.logits.argmax(-1)

    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats, or the mean squared error if the model has one output."""
        if "labels" not in batch:
            raise DataError("the batch has no labels; the loss of text_classification needs a label column")
        logits, labels = outputs.logits.float(), batch["labels"].to(outputs.logits.device)
        if logits.shape[-1] == 1:
            return functional.mse_loss(logits.squeeze(-1), labels.float())
        return functional.cross_entropy(logits, labels)

    def evaluate(self, model: PreTrainedModel, evaluation: list[Batch], device: torch.device | str) -> Score:
        """Accuracy. If the model has one output: Spearman's correlation, with Pearson's correlation in the details."""
        logits, labels = [], []
        for outputs, batch in forward(model, evaluation, device):
            logits.append(outputs.logits.float().cpu())
            labels.append(batch["labels"].cpu())
        predicted, true = torch.cat(logits), torch.cat(labels)
        if predicted.shape[-1] == 1:
            return correlation(predicted.squeeze(-1), true)
        hits = (predicted.argmax(-1) == true).double()
        return Score("accuracy", hits.mean().item(), higher_is_better=True, count=len(true))
