"""Tasks: one file each, data -> batches, loss, metric and teacher signal. A new task is one new file here.

A task file (its name has no leading underscore) defines one subclass of ``Task``; the file name is the task's name.
Files with a leading underscore are what the tasks share.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.errors import RecipeError

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Batch", "Columns", "Score", "Task", "TaskData", "model_inputs", "names", "task"]

Batch = dict[str, Tensor]
"""``input_ids``, ``attention_mask`` and, where they apply, ``token_type_ids``, ``labels`` and ``judged`` (1 at the tokens
the task's signal is taken at, 0 elsewhere): on the CPU, padded on the right to the longest row of the batch."""

FOR_THE_TASK = frozenset({"labels", "judged"})
"""Entries of a batch that the task reads and the model does not take."""


def model_inputs(batch: Mapping[str, Tensor]) -> Batch:
    """What of a batch is given to the model."""
    return {name: value for name, value in batch.items() if name not in FOR_THE_TASK}


@dataclass(frozen=True)
class Columns:
    """Which columns of the data to use; what is ``None`` is looked for under its usual names.

    Args:
        text: the text, or the first of two; the words; the question.
        text_pair: the second text; the context that answers the question.
        label: class, class name or score; the tags of the words; the answers.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Score:
    """One number on held-out data.

    Args:
        name: of the metric, e.g. ``"accuracy"``.
        value: a fraction for accuracy and nDCG, never a percentage.
        higher_is_better: the direction of the metric.
        count: rows, queries, pairs or predicted tokens it was taken over.
        details: what else the reader has to know (stride, definition of the gain, a second metric).
    """

    name: str
    value: float
    higher_is_better: bool
    count: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f}"


@dataclass(frozen=True)
class TaskData:
    """Everything a run takes from the data.

    Args:
        calibration: batches on which activations are gathered; labels, if any, are not needed there.
        calibration_labels: ``Task.loss`` can be taken on the calibration batches.
        evaluation: held-out data in the task's own form, for ``Task.evaluate``; ``None`` if there is none.
        train: rows as dicts, for ``transformers.Trainer``; ``None`` if there is no data to train on.
        collate: rows of ``train`` -> ``Batch``; the ``data_collator`` of the trainer.
        description: one line for reports: source, splits, rows.
    """

    calibration: list[Batch]
    calibration_labels: bool
    evaluation: Any | None
    train: Dataset[Any] | None
    collate: Callable[[list[dict[str, Any]]], Batch]
    description: str


class Task(ABC):
    """What a model is for. One object serves one model at a time: ``load`` may remember how its outputs are read."""

    name: ClassVar[str]
    """The name of the file that defines the task."""
    auto_class: ClassVar[str]
    """The class of transformers that loads its models, e.g. ``"AutoModelForCausalLM"``."""
    needs_labels_for_metric: ClassVar[bool]
    """Without labelled data ``TaskData.evaluation`` is ``None``."""
    divergence_name: str
    """What ``divergence`` is called in reports, e.g. ``"KL"``."""
    pipeline_tag: ClassVar[str | None] = None
    """The Hub's name for the task."""
    has_loss_without_labels: ClassVar[bool] = False
    """``loss`` can be taken on any text (language models)."""
    has_loss: ClassVar[bool] = True
    """``False``: the task has no loss of its own; training is distillation alone."""
    keeps_hidden_size: ClassVar[bool] = False
    """Its outputs are hidden states as they are: their size must not change."""
    may_be_missing: ClassVar[tuple[str, ...]] = ()
    """Beginnings of parameter names that a checkpoint may lack because the task does not use them."""

    def load(
        self,
        source: str,
        *,
        dtype: torch.dtype | str,
        device: torch.device | str,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model (in evaluation mode) and tokenizer from a folder or a hub id; safetensors only, nothing is unpickled.

        Raises:
            CheckpointError: the folder is missing, damaged, without tokenizer, or the hub cannot be reached.
            UnsupportedModelError: weights are NaN or infinite, missing, or of a model that is not for this task.
        """
        from secateurs.tasks._loading import load

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
        """The weights that the body of ``model`` can take from another of its kind, by their names in it.

        Raises:
            CheckpointError: there is no such model.
            UnsupportedModelError: it is of another kind or size, or was trained for another number of labels.
        """
        from secateurs.tasks._loading import body

        return body(model, source)

    def graft(self, model: PreTrainedModel, source: str) -> None:
        """Give the body of ``model`` the weights of another of its kind (the pretrained one); the head stays.

        Raises:
            SecateursError: see ``body``.
        """
        model.base_model.load_state_dict(self.body(model, source), strict=False)

    @abstractmethod
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
        """Read a folder, a file or a hub id.

        Args:
            source: where the data is.
            model: whose labels, vocabulary and positions the data has to fit.
            tokenizer: of that model.
            columns: see ``Columns``.
            batch_size: sequences a batch.
            sequence_length: tokens at which sequences are cut off.
            calibration_samples: sequences to calibrate on; all there are, if there are fewer.
            seed: of the sampling.
            evaluation_samples: evaluate on a random sample of this size instead of everything.

        Raises:
            DataError: the data cannot be read, or does not fit the model.
        """

    @abstractmethod
    def signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """What the model says, one row for everything it is judged by."""

    def full_signal(self, outputs: Any, batch: Batch) -> Float[Tensor, "rows features"]:
        """All that the model says, where ``signal`` is a sample of it."""
        return self.signal(outputs, batch)

    @abstractmethod
    def divergence(
        self, student: Float[Tensor, "rows features"], teacher: Float[Tensor, "rows features"]
    ) -> Float[Tensor, " rows"]:
        """How far two signals are apart: at least 0, and 0 where they are equal."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        """The mean loss of the task itself, with labels.

        Raises:
            DataError: the batch has no labels, or the task has no loss of its own.
        """

    def inputs_for_loss(self, model: Any, batch: Batch) -> Batch:
        """What is given to the model where nothing but ``loss`` is read off its outputs; see ``model_inputs``.

        Args:
            model: itself, not what is put around it.
            batch: on any device.
        """
        return model_inputs(batch)

    @abstractmethod
    def evaluate(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Score:
        """The metric of the task on ``TaskData.evaluation``; the model's training mode is left as it was."""

    def reference(self, model: PreTrainedModel, evaluation: Any, device: torch.device | str) -> Any:
        """The evaluation data with what the dense model says about it, for metrics that are measured against it."""
        return evaluation

    def save_extras(self, source: str, folder: Path) -> None:
        """Copy files of the dense model that other libraries need beside the weights."""
        return

    @classmethod
    def example(cls, texts: Sequence[str], labelled: bool = True) -> dict[str, list[Any]]:
        """Columns of data as this task reads them, made of any texts and two classes.

        Args:
            texts: of two words at least.
            labelled: with the column that ``loss`` and ``evaluate`` need.
        """
        columns: dict[str, list[Any]] = {"text": list(texts)}
        return {**columns, "label": [index % 2 for index in range(len(texts))]} if labelled else columns


def names() -> list[str]:
    """The tasks there are: the files of this folder. Imports nothing."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def task(name: str) -> Task:
    """A task by its name.

    Raises:
        RecipeError: there is no such task.

    >>> task("causal_lm").name
    'causal_lm'
    """
    if name not in names():
        raise RecipeError(f"there is no task {name!r}; the tasks are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    ]
    assert [cls.name for cls in found] == [name], f"{module.__name__} must define one Task, called {name!r}"
    return found[0]()
