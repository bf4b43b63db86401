"""What the weights learn while a baseline prunes them: the task itself where there are labels, else the dense model."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.arithmetic import fast
from secateurs.errors import RecipeError
from secateurs.job import Job
from secateurs.objective import Objective
from secateurs.tasks import model_inputs

__all__ = ["Lesson", "Lessons", "Plain", "check_labels", "freeze_embeddings", "has_labels"]

Lessons = Literal["auto", "labels", "outputs"]


def has_labels(job: Job) -> bool:
    """Whether the loss of the task can be taken on rows of the training split."""
    if not job.task.has_loss:
        return False
    assert job.train is not None and job.collate is not None
    return job.task.has_loss_without_labels or "labels" in job.collate([job.train[0]])


def check_labels(what: Lessons, job: Job) -> None:
    """Raises:
    RecipeError: the loss of the task is asked for where it cannot be taken.
    """
    if what == "labels" and not has_labels(job):
        raise RecipeError(
            f"the loss of {job.task.name.replace('_', '-')} needs labels, and the training split has none; "
            "use --set teach=outputs"
        )


class Lesson:
    """The loss of one batch.

    Args:
        what: ``labels``: the loss of the task; ``outputs``: the divergence of the task's signal from that of the dense
            model; ``auto``: the first where there are labels.
        job: task and data.
        teacher: the dense model, in evaluation mode, on the device of ``job``.

    Raises:
        RecipeError: the loss of the task is asked for where it cannot be taken.
    """

    def __init__(self, what: Lessons, job: Job, teacher: nn.Module) -> None:
        check_labels(what, job)
        labels = what != "outputs" and has_labels(job)
        self.task, self.model = job.task, job.model
        self.teacher = None if labels else teacher

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], network: nn.Module) -> Float[Tensor, ""]:
        """Args:
        model: called with what a model takes.
        inputs: the batch.
        network: of which dropout is switched: on for the task, off for who is to answer like a teacher without it.
        """
        if self.teacher is None:
            network.train()
            return self.task.loss(model(**self.task.inputs_for_loss(self.model, inputs)), inputs)
        network.eval()
        features = model_inputs(inputs)
        outputs: Any = model(**features)
        with torch.no_grad(), fast(inputs["input_ids"].device):
            wanted = self.teacher(**features)
        return self.task.divergence(self.task.signal(outputs, inputs), self.task.signal(wanted, inputs)).mean()


class Plain(Objective):
    """A lesson and nothing else: for a model that has its final shape.

    Args:
        name: for messages.
        lesson: what is learned.
    """

    def __init__(self, name: str, lesson: Lesson) -> None:
        self.name, self.lesson = name, lesson

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return self.lesson.loss(model, inputs, model)


def freeze_embeddings(model: nn.Module) -> None:
    """They learn nothing from now on."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
