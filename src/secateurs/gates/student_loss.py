"""What a student is trained on, while its masks are learned and after it is shrunk: the teacher's outputs, or the labels.

    loss = output_weight * T^2 * divergence(student / T, teacher / T) + layer_weight * layer matching

(Xia, Zhong, Chen 2022, eq. 6 and 7.) Distillation needs no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.gates.layer_matching import LayerMatching
from secateurs.numerics.precision import autocast_if_fast
from secateurs.tasks.base import Batch, Task, main_input, model_inputs
from secateurs.training.layer_states import layer_states
from secateurs.training.objective import Objective

__all__ = ["DistillationLoss", "LabelLoss", "LossInputs", "StudentLoss", "StudentObjective", "TeacherOutputs"]


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of the dense model for one batch.

    Args:
        compared: the outputs that are compared, rows x features.
        hidden: hidden states, embeddings at index 0.
    """

    compared: Tensor
    hidden: Sequence[Tensor]


@dataclass(frozen=True)
class LossInputs:
    """What a student loss takes besides the outputs of the student.

    Args:
        inputs: the batch.
        teacher: outputs of the teacher; ``None`` without a teacher.
        matching: the map that layers are compared through; ``None`` = layers are not compared.
        kept: whether each student layer is kept.
        step: optimiser step.
    """

    inputs: Batch
    teacher: TeacherOutputs | None
    matching: LayerMatching | None
    kept: Sequence[bool]
    step: int


class StudentLoss(Protocol):
    """A loss of a student's outputs."""

    dropout: ClassVar[bool]
    """The student is trained with dropout."""

    def inputs(self, model: nn.Module, batch: Batch) -> Batch:
        """The inputs of the student."""
        ...

    def teacher_outputs(self, inputs: Batch) -> TeacherOutputs | None:
        """The outputs of the teacher for a batch; ``None`` without a teacher."""
        ...

    def loss(self, outputs: Any, given: LossInputs) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            outputs: outputs of the student.
            given: everything else.
        """
        ...


@dataclass(frozen=True)
class DistillationLoss:
    """The two weighted terms of the module docstring.

    Args:
        teacher: the dense model, in evaluation mode, on the device of the student.
        task: defines the outputs that are compared, and their divergence.
        temperature: ``T``; softens logits, and leaves a squared error as it is.
        output_weight: weight of the divergence.
        layer_weight: weight of the layer matching; 0 = none.
    """

    dropout: ClassVar[bool] = False
    """As the teacher, whose outputs are matched."""

    teacher: nn.Module
    task: Task
    temperature: float
    output_weight: float
    layer_weight: float

    def inputs(self, model: nn.Module, batch: Batch) -> Batch:
        """The inputs of the student, without labels."""
        return model_inputs(batch)

    def teacher_outputs(self, inputs: Batch) -> TeacherOutputs:
        """The outputs of the teacher, without gradient; in bfloat16 where that is fast."""
        with torch.no_grad(), autocast_if_fast(main_input(inputs).device):
            outputs = self.teacher(**model_inputs(inputs), output_hidden_states=True)
        return TeacherOutputs(
            self.task.compared_outputs(outputs, inputs), getattr(outputs, "hidden_states", None) or ()
        )

    def loss(self, outputs: Any, given: LossInputs) -> Float[Tensor, ""]:
        """See ``StudentLoss.loss``."""
        teacher, warm = given.teacher, self.temperature
        assert teacher is not None
        ours = self.task.compared_outputs(outputs, given.inputs)
        loss = self.output_weight * warm**2 * self.task.divergence(ours / warm, teacher.compared / warm).mean()
        if given.matching is not None:
            tokens = layer_states(outputs, given.inputs)[0][1]
            matched = given.matching(outputs.hidden_states, teacher.hidden, tokens, given.kept, given.step)
            loss = loss + self.layer_weight * matched
        return loss


@dataclass(frozen=True)
class LabelLoss:
    """The loss of the task itself, by labels and without a teacher.

    Args:
        task: the task whose loss is taken.
    """

    dropout: ClassVar[bool] = True
    """As in any training by labels, the one of the baselines included."""

    task: Task

    def inputs(self, model: nn.Module, batch: Batch) -> Batch:
        """The inputs of the student, with labels for models that compute their loss themselves."""
        return self.task.inputs_for_loss(model, batch)

    def teacher_outputs(self, inputs: Batch) -> None:
        """None: there is no teacher."""

    def loss(self, outputs: Any, given: LossInputs) -> Float[Tensor, ""]:
        """See ``StudentLoss.loss``."""
        return self.task.loss(outputs, given.inputs)


class _Student(nn.Module):
    """A student and the map that its layers are compared through."""

    def __init__(self, model: nn.Module, matching: LayerMatching | None) -> None:
        super().__init__()
        self.model, self.matching = model, matching

    def forward(
        self, inputs: Batch, teacher: TeacherOutputs | None, how: StudentLoss, kept: Sequence[bool], step: int
    ) -> Float[Tensor, ""]:
        self.model.train(how.dropout)
        outputs = self.model(**how.inputs(self.model, inputs), output_hidden_states=self.matching is not None)
        return how.loss(outputs, LossInputs(inputs, teacher, self.matching, kept, step))


class StudentObjective(Objective):
    """A student loss alone, without gates: before masks are learned, and after the model is shrunk.

    Args:
        name: name of the training in messages.
        how: the loss.
        matching: the map that layers are compared through; ``None`` = layers are not compared.
        kept: whether each student layer is kept.
    """

    def __init__(self, name: str, how: StudentLoss, matching: LayerMatching | None, kept: Sequence[bool]) -> None:
        self.name, self.how, self.matching, self.kept = name, how, matching, kept

    def trained_module(self, model: nn.Module) -> nn.Module:
        """The model and the map."""
        return _Student(model, self.matching)

    def loss(self, model: nn.Module, inputs: Batch, step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return model(inputs, self.how.teacher_outputs(inputs), self.how, self.kept, step)
