"""What a student with learned masks is taught, while it is pruned and after it is shrunk: outputs, and layers.

    loss = output_weight * T^2 * divergence(student / T, teacher / T) + layer_weight * layer matching

There is no supervised loss: texts need no labels (Xia, Zhong, Chen 2022, eq. 6 and 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.objective import Objective
from secateurs.stages.layer_matching import LayerMatching
from secateurs.tasks import model_inputs

__all__ = ["Distillation", "Lesson", "Student", "Taught"]


@dataclass(frozen=True)
class Lesson:
    """What the dense model says about one batch."""

    signal: Tensor
    hidden: Sequence[Tensor]


@dataclass(frozen=True)
class Distillation:
    """Weights of the two terms, and the teacher.

    Args:
        teacher: the dense model, in evaluation mode, on the student's device.
        task: whose ``signal`` and ``divergence`` are matched.
        temperature: ``T``; softens logits, and leaves a squared error as it is.
        output_weight: of the divergence.
        layer_weight: of the layers; 0 = none.
    """

    teacher: nn.Module
    task: Any
    temperature: float
    output_weight: float
    layer_weight: float

    def inputs(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the student is given."""
        return model_inputs(batch)

    def lesson(self, inputs: dict[str, Tensor]) -> Lesson:
        """The teacher's part, without gradient; half precision where that is fast."""
        with torch.no_grad(), fast(inputs["input_ids"].device):
            outputs = self.teacher(**model_inputs(inputs), output_hidden_states=True)
        return Lesson(self.task.signal(outputs, inputs), outputs.hidden_states)

    def loss(
        self,
        outputs: Any,
        lesson: Lesson,
        inputs: dict[str, Tensor],
        matching: LayerMatching | None,
        kept: Sequence[bool],
        step: int,
    ) -> Float[Tensor, ""]:
        """The weighted sum for one batch of a student's outputs."""
        warm = self.temperature
        apart = self.task.divergence(self.task.signal(outputs, inputs) / warm, lesson.signal / warm).mean()
        loss = self.output_weight * warm**2 * apart
        if matching is not None:
            tokens = inputs["attention_mask"].bool()
            loss = loss + self.layer_weight * matching(outputs.hidden_states, lesson.hidden, tokens, kept, step)
        return loss


class Student(nn.Module):
    """A student with the map that its layers are compared through.

    Args:
        model: the student.
        matching: ``None`` = its layers are not compared.
    """

    def __init__(self, model: nn.Module, matching: LayerMatching | None) -> None:
        super().__init__()
        self.model, self.matching = model, matching

    def forward(
        self, inputs: dict[str, Tensor], lesson: Lesson, how: Distillation, kept: Sequence[bool], step: int
    ) -> Float[Tensor, ""]:
        """The loss of one batch."""
        self.model.eval()  # without dropout, like the teacher: what is to be learned is what the teacher says
        outputs = self.model(**how.inputs(self.model, inputs), output_hidden_states=self.matching is not None)
        return how.loss(outputs, lesson, inputs, self.matching, kept, step)


class Taught(Objective):
    """Distillation and nothing else: before masks are learned, and after the model is shrunk.

    Args:
        name: for messages.
        how: teacher and weights.
        matching: the map that layers are compared through.
        kept: of each layer, whether anything is left in it.
    """

    def __init__(self, name: str, how: Distillation, matching: LayerMatching | None, kept: Sequence[bool]) -> None:
        self.name, self.how, self.matching, self.kept = name, how, matching, kept

    def learner(self, model: nn.Module) -> Student:
        """The model and the map."""
        return Student(model, self.matching)

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return model(inputs, self.how.lesson(inputs), self.how, self.kept, step)
