"""Whether a training can learn from labels, and the refusal where it cannot."""

from __future__ import annotations

from secateurs.context import PruneContext
from secateurs.errors import RecipeError
from secateurs.methods._settings import TrainOn

__all__ = ["check_labels", "has_labels"]


def has_labels(context: PruneContext) -> bool:
    """Whether the loss of the task can be taken on rows of the training split."""
    if not context.task.has_loss:
        return False
    assert context.train is not None and context.collate is not None
    return context.task.has_loss_without_labels or "labels" in context.collate([context.train[0]])


def check_labels(what: TrainOn, context: PruneContext) -> None:
    """Refuse the loss of the task where it cannot be taken.

    Raises:
        RecipeError: ``labels`` is asked for, and the training split has none.
    """
    if what != "labels":
        return
    task = context.task.name.replace("_", "-")
    if not context.task.has_loss:
        raise RecipeError(f"{task} has no loss of its own; use --set teach=outputs, which needs no labels")
    if not has_labels(context):
        raise RecipeError(f"the loss of {task} needs labels, and the training split has none; use --set teach=outputs")
