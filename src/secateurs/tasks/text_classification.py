"""Classification of texts or pairs of texts, scored by accuracy; regression, scored by Spearman's rank correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from secateurs.errors import DataError, UnsupportedModelError
from secateurs.numerics.divergence import kl_divergence
from secateurs.tasks.base import Batch, Columns, Score, Task, TaskData
from secateurs.tasks.data.batches import (
    Collate,
    TextRows,
    calibration_batches,
    forward,
    ordered_batches,
    sample,
)
from secateurs.tasks.data.columns import check_label, find_label, find_texts, skip_empty, texts_of
from secateurs.tasks.data.encode import Encode
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide
from secateurs.tasks.metrics.correlation import correlation

if TYPE_CHECKING:
    from datasets import Dataset
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
        """See ``Task.read``. The classes of the data must be those of the model."""
        encode = Encode.for_model(model, tokenizer, sequence_length)
        labels = _Labels(model.config, columns, source)
        splits = skip_empty(read_splits(source), columns, source)
        check_label(columns, splits, source)
        division = divide(source, splits, usable=labels.present, seed=seed)
        rows = self._rows(division.rows, encode, labels, columns, f"{source} ({division.rows_name})")
        held_out = None
        if division.held_out is not None:
            chosen = division.held_out.select(sample(len(division.held_out), evaluation_samples, seed))
            held_out = self._rows(chosen, encode, labels, columns, f"{source} ({division.held_out_name})")
        labels.check_classes([data for data in (division.rows, division.held_out) if data is not None])
        calibration = calibration_batches(rows, calibration_samples, batch_size, seed)
        labelled = rows.labels is not None
        count = sum(len(batch["input_ids"]) for batch in calibration)
        evaluated = len(held_out) if held_out is not None else 0
        return TaskData(
            calibration=calibration,
            calibration_labels=labelled,
            evaluation=ordered_batches(held_out, batch_size).batches if held_out is not None else None,
            train=rows if division.trainable else None,
            collate=Collate.like(tokenizer),
            description=(
                f"{source}: {count} of {len(rows)} {division.rows_name} rows to calibrate, "
                f"{evaluated} rows to evaluate ({division.held_out_name})"
            ),
        )

    @staticmethod
    def _rows(data: Dataset, encode: Encode, labels: _Labels, columns: Columns, source: str) -> TextRows:
        found = find_texts(columns, data, source)
        pairs = texts_of(data, found.text_pair, source) if found.text_pair is not None else None
        return TextRows(
            encode,
            texts_of(data, found.text, source),
            pairs,
            labels.read(data, source) if labels.present(data) else None,
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


class _Labels:
    """Conversion of the label column of a data set to class indices or scores of a model.

    Args:
        config: config of the model.
        columns: names of the columns.
        source: name of the data set in error messages.

    Raises:
        UnsupportedModelError: the model predicts several classes or several scores per text.
    """

    def __init__(self, config: Any, columns: Columns, source: str) -> None:
        problem = getattr(config, "problem_type", None)
        if problem == "multi_label_classification" or (problem == "regression" and config.num_labels != 1):
            raise UnsupportedModelError(
                f"the model solves {problem} with {config.num_labels} outputs; text_classification needs one class "
                "per text, or one score"
            )
        self.config, self.columns, self.source = config, columns, source
        self.scores = config.num_labels == 1
        self.by_name = {str(name): int(index) for name, index in (config.label2id or {}).items()}

    def present(self, rows: Dataset) -> bool:
        """Whether a split has labels. Labels that are all -1 or all empty count as hidden, as in the test splits of GLUE."""
        column = find_label(self.columns, rows)
        return column is not None and any(value is not None and value != -1 for value in rows[column])

    def read(self, rows: Dataset, source: str) -> list[int] | list[float]:
        """Read the labels of a split as class indices of the model, or as scores if the model has one output.

        Args:
            rows: rows of the split.
            source: name of the split in error messages.

        Raises:
            DataError: a label is missing, unknown or out of range.
        """
        column = find_label(self.columns, rows)
        assert column is not None
        values = rows[column][:]
        where = f"column {column!r} of {source}"
        for index, value in enumerate(values):
            if value is None or value != value:
                raise DataError(f"row {index} of {where} has no label; drop or repair such rows")
        if self.scores:
            return self._as_scores(values, where)
        if isinstance(values[0], str):
            return self._as_named(values, where)
        return self._as_indices(values, where)

    def _as_scores(self, values: list[Any], where: str) -> list[float]:
        if not all(isinstance(value, int | float) for value in values):
            raise DataError(f"{where} holds {type(values[0]).__name__}; the model has one output and needs scores")
        return [float(value) for value in values]

    def _as_named(self, values: list[str], where: str) -> list[int]:
        unknown = sorted(set(values) - self.by_name.keys())
        if unknown:
            raise DataError(
                f"{where} has labels the model does not know ({', '.join(unknown[:5])}); "
                f"the model's labels are {', '.join(list(self.by_name)[:10])}"
            )
        return [self.by_name[value] for value in values]

    def _as_indices(self, values: list[Any], where: str) -> list[int]:
        count = self.config.num_labels
        for index, value in enumerate(values):
            if not isinstance(value, int | float) or int(value) != value:
                raise DataError(f"{where} holds {value!r} in row {index}; the model has {count} classes, not scores")
            if not 0 <= value < count:
                raise DataError(
                    f"{where} holds the label {int(value)} in row {index}; the model has classes 0..{count - 1}"
                )
        return [int(value) for value in values]

    def check_classes(self, data: list[Dataset]) -> None:
        """Check that integer labels have as many different values as the model has classes.

        Integer labels have no names to compare, so their number is the only sign that they mean the same classes.

        Args:
            data: all splits that are used.

        Raises:
            DataError: the numbers differ.
        """
        seen: set[Any] = set()
        for rows in data:
            column = find_label(self.columns, rows)
            seen |= set(rows[column][:]) if column is not None else set()
        seen -= {None, -1}
        if self.scores or not seen or any(isinstance(value, str) for value in seen):
            return
        if len(seen) != self.config.num_labels:
            raise DataError(
                f"{self.source} has {len(seen)} classes and the model {self.config.num_labels} labels; use the data "
                "that the model was trained for, or a label column with names from the model's label2id"
            )
