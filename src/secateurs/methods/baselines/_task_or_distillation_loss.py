"""What the weights are trained on while a baseline prunes them: the task itself if there are labels, else the dense model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.methods._labels import check_labels, has_labels
from secateurs.methods._settings import TrainOn
from secateurs.numerics.precision import autocast_if_fast
from secateurs.tasks.base import Batch, main_input, model_inputs
from secateurs.training.objective import Objective

__all__ = ["LossObjective", "TaskOrDistillationLoss"]


class TaskOrDistillationLoss:
    """The loss of one batch.

    Args:
        what: ``labels``: the loss of the task. ``outputs``: the divergence of the outputs from those of the dense model.
            ``auto``: the first if there are labels.
        context: task and data.
        teacher: the dense model, in evaluation mode, on the device of ``context``.

    Raises:
        RecipeError: ``labels`` is asked for, and the training split has none.
    """

    def __init__(self, what: TrainOn, context: PruneContext, teacher: nn.Module) -> None:
        check_labels(what, context)
        labels = what != "outputs" and has_labels(context)
        self.task, self.model = context.task, context.model
        self.teacher = None if labels else teacher

    def loss(self, model: nn.Module, inputs: Batch, network: nn.Module) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            model: the trained module; called with the inputs of a model.
            inputs: the batch.
            network: the module whose dropout is switched: on for the loss of the task, off for distillation.
        """
        if self.teacher is None:
            network.train()
            return self.task.loss(model(**self.task.inputs_for_loss(self.model, inputs)), inputs)
        network.eval()
        features = model_inputs(inputs)
        outputs: Any = model(**features)
        with torch.no_grad(), autocast_if_fast(main_input(inputs).device):
            teacher = self.teacher(**features)
        ours, theirs = self.task.compared_outputs(outputs, inputs), self.task.compared_outputs(teacher, inputs)
        return self.task.divergence(ours, theirs).mean()


class LossObjective(Objective):
    """The loss alone, for a model that has its final shape.

    Args:
        name: name of the training in messages.
        how: the loss.
    """

    def __init__(self, name: str, how: TaskOrDistillationLoss) -> None:
        self.name, self.how = name, how

    def loss(self, model: nn.Module, inputs: Batch, step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return self.how.loss(model, inputs, model)
