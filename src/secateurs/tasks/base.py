"""Interface of a task: it turns data into batches and computes the loss, the metric and the compared outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.errors import RecipeError
from secateurs.numerics.divergence import kl_direction
from secateurs.tasks.answers import Answers
from secateurs.tasks.batch import Batch, main_input, model_inputs
from secateurs.tasks.roles import RoleSizes
from secateurs.tasks.task_data import Columns, DataRequest, TaskData, Understood, check_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Batch", "Columns", "DataRequest", "Score", "Task", "TaskData", "Understood", "main_input", "model_inputs"]


@dataclass(frozen=True)
class Score:
    """Value of a metric on held-out data.

    Args:
        name: name of the metric, e.g. ``"accuracy"``.
        value: value of the metric. Accuracy, F1 and nDCG are fractions between 0 and 1, never percentages.
        higher_is_better: whether a higher value is better.
        count: number of rows, queries, pairs or predicted tokens that the value is computed over.
        details: further numbers and settings of the metric (stride, definition of the gain, a second metric).
    """

    name: str
    value: float
    higher_is_better: bool
    count: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f}"


class Task(Answers, ABC):
    """Data, loss and metric of one kind of model.

    One instance serves one model at a time, because ``load`` may store how the outputs of that model are used.
    """

    name: ClassVar[str]
    """Name of the file or folder that defines the task."""
    auto_class: ClassVar[str]
    """Name of the transformers class that loads the models of the task, e.g. ``"AutoModelForCausalLM"``."""
    needs_labels_for_metric: ClassVar[bool]
    """Whether the metric needs labels. If it does, ``TaskData.evaluation`` is ``None`` for data without labels."""
    divergence_name: str
    """Name of ``divergence`` in reports, e.g. ``"KL"``."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that a recipe may choose from, the default first; empty if there is no choice."""
    pipeline_tag: ClassVar[str | None] = None
    """Name of the task on the Hub."""
    has_loss_without_labels: ClassVar[bool] = False
    """Whether ``loss`` can be computed on any text without labels (language models)."""
    has_loss: ClassVar[bool] = True
    """Whether the task has a loss. If it has none, models of the task are trained by distillation only."""
    keeps_hidden_size: ClassVar[bool] = False
    """Whether the hidden size must stay as it is, because the outputs of the model are hidden states."""
    inputs: ClassVar[str] = "input_ids"
    """Name of the input that the task prepares: token ids, or ``"pixel_values"``."""
    may_be_missing: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the parameter names that a checkpoint may lack, because the task does not use these parameters."""

    @property
    def subfolder(self) -> str:
        """Subfolder of the loaded model's folder or repository that holds its weights; ``""`` if they lie at the top."""
        return ""

    def load(
        self,
        source: str,
        *,
        dtype: torch.dtype | str,
        device: torch.device | str,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load a model and its tokenizer. Only safetensors files are read, so nothing is unpickled.

        Args:
            source: folder, or hub id.
            dtype: data type of the weights.
            device: device of the model.
            trust_remote_code: whether Python code of the checkpoint may be run.
            revision: branch, tag or commit on the hub.

        Returns:
            The model in evaluation mode, and the tokenizer as it was saved.

        Raises:
            CheckpointError: the folder is missing, damaged or without tokenizer, or the hub cannot be reached.
            UnsupportedModelError: weights are missing, NaN or infinite, or belong to a model of another task.
        """
        from secateurs.checkpoint.load_model import load

        return load(
            source,
            self.auto_class,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            revision=revision,
            may_be_missing=self.may_be_missing,
        )

    def body(self, model: PreTrainedModel, source: str) -> dict[str, Tensor]:
        """Weights of another checkpoint that fit the base model (the model without its head).

        Args:
            model: model that would receive the weights.
            source: folder or hub id of the other checkpoint.

        Returns:
            Parameter names in the base model of ``model``, each with the tensor of the other checkpoint.

        Raises:
            CheckpointError: the other checkpoint cannot be loaded.
            UnsupportedModelError: it has another architecture or size, or was trained for another number of labels.
        """
        from secateurs.checkpoint.load_model import body

        return body(model, source)

    def graft(self, model: PreTrainedModel, source: str) -> None:
        """Load the weights of another checkpoint, e.g. the pretrained one, into the base model. The head is unchanged.

        Args:
            model: model whose base model is overwritten.
            source: folder or hub id of the other checkpoint.

        Raises:
            SecateursError: see ``body``.
        """
        model.base_model.load_state_dict(self.body(model, source), strict=False)

    def read(
        self,
        source: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        columns: Columns,
        batch_size: int,
        sequence_length: int,
        roles: RoleSizes,
        seed: int,
        evaluation_samples: int | None = None,
        metric: str | None = None,
        max_new_tokens: int | None = None,
    ) -> TaskData:
        """Read a data set from a folder, a file or a hub id.

        Args:
            source: path or hub id of the data set.
            model: model whose labels, vocabulary and number of positions the data must fit.
            tokenizer: tokenizer of the model.
            columns: names of the columns.
            batch_size: sequences per batch of data.
            sequence_length: maximum number of tokens per sequence; longer sequences are truncated or divided.
            roles: number of texts of every role. If there are fewer, all roles get less, and the notes of the roles say so.
            seed: seed of the random samples.
            evaluation_samples: size of a random sample to evaluate on; ``None`` evaluates on everything.
            metric: one of ``metrics``; ``None`` is the default.
            max_new_tokens: most tokens that are generated per text, for metrics of generated texts; ``None`` is
                ``sequence_length``.

        Raises:
            DataError: the data cannot be read, or does not fit the model.
            RecipeError: see ``check_metric``.
            UnsupportedModelError: the model takes inputs that the task does not prepare.
        """
        self.check_metric(metric)
        check_inputs(model, self.inputs)
        sizes = (batch_size, sequence_length, roles, seed, evaluation_samples)
        return self.read_data(DataRequest(source, model, tokenizer, columns, *sizes, metric, max_new_tokens))

    def check_metric(self, metric: str | None) -> None:
        """Refuse a metric that the task does not have, or whose library is not installed.

        Raises:
            RecipeError: one line that says which metrics there are, or what to install.
        """
        if metric is not None and metric not in self.metrics:
            choice = f"choose {', '.join(self.metrics)}" if self.metrics else "leave metric out, there is no choice"
            raise RecipeError(f"the task {self.name.replace('_', '-')} has no metric {metric!r}; {choice}")

    @abstractmethod
    def read_data(self, request: DataRequest) -> TaskData:
        """What ``read`` does in this task.

        Args:
            request: the arguments of ``read``.

        Raises:
            DataError: see ``read``.
        """

    @abstractmethod
    def compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """The outputs that are compared between two models: one row per text, word, token or end of a span."""

    def all_compared_outputs(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """All comparable outputs, for tasks in which ``compared_outputs`` is a sample of them."""
        return self.compared_outputs(outputs, batch)

    @abstractmethod
    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """Divergence of the compared outputs of two models, per row: at least 0, and 0 where the rows are equal."""

    def direction(
        self, teacher: Float[Tensor, "rows features"], noise: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows features"]:
        """A random direction ``v`` of the compared outputs whose covariance is the curvature of the divergence there.

        For outputs ``teacher + d``, the mean of ``(v . d)^2 / 2`` is the divergence, to second order in ``d``. The default
        is that of ``kl_divergence``.

        Args:
            teacher: compared outputs of the dense model.
            noise: standard normal numbers.
        """
        return kl_direction(teacher, noise)

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """Mean loss of the task.

        Raises:
            DataError: the batch has no labels, or the task has no loss.
        """

    def inputs_for_loss(self, model: Any, batch: Batch) -> Batch:
        """Model inputs for a forward pass whose outputs are used by ``loss`` only; by default ``model_inputs``.

        Args:
            model: the model without any wrapper around it.
            batch: batch on any device.
        """
        return model_inputs(batch)

    @abstractmethod
    def evaluate(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Score:
        """Compute the metric of the task. The training mode of the model is restored afterwards.

        Args:
            model: model on ``device``.
            evaluation: ``TaskData.evaluation``, after ``reference`` where the metric compares with the dense model.
            device: device to which the batches are moved.
        """

    def reference(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Any:
        """The evaluation data with the outputs of the dense model, for metrics that compare with the dense model.

        Args:
            model: the dense model.
            evaluation: ``TaskData.evaluation``.
            device: device to which the batches are moved.
        """
        return evaluation

    def save_extras(self, source: str, folder: Path) -> None:
        """Copy files of the dense model into the folder of the pruned model: its tokenizer, and files of other libraries.

        Args:
            source: folder or hub id of the dense model.
            folder: folder of the pruned model.
        """
        from secateurs.checkpoint.dense_files import copy_sentence_files, copy_tokenizer

        copy_tokenizer(source, folder, subfolder=self.subfolder)
        copy_sentence_files(source, folder)

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """Columns of an example data set for this task, with labels of two classes.

        Args:
            texts: texts of at least two words each.
            labelled: whether to add the column that ``loss`` and ``evaluate`` need.
        """
        columns: dict[str, list[Any]] = {"text": list(texts)}
        return {**columns, "label": [index % 2 for index in range(len(texts))]} if labelled else columns
