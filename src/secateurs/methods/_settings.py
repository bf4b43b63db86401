"""What the settings of all methods share: facts about a method, and how much it works.

Without torch, so that a recipe is checked before torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from secateurs.tasks.roles import RoleSizes

if TYPE_CHECKING:
    from torch import nn

    from secateurs.context import PruneContext

__all__ = ["Finetuning", "ForwardPasses", "OneShot", "TrainOn"]

TrainOn = Literal["auto", "labels", "outputs"]
"""What weights are trained on. ``labels``: the loss of the task. ``outputs``: the outputs of the dense model. ``auto``: the
first if there are labels."""


@dataclass(frozen=True)
class Finetuning:
    """How long a model is trained after it was shrunk.

    Args:
        epochs: passes over the training split; 0 = no training, unless ``steps`` is set.
        steps: optimiser steps in place of epochs.
        learning_rate: peak learning rate, linear to 0.
    """

    epochs: float = 0.0
    steps: int = 0
    learning_rate: float = 5e-5

    def __bool__(self) -> bool:
        return self.epochs > 0 or self.steps > 0

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.epochs:g} epochs"


@dataclass(frozen=True)
class ForwardPasses:
    """The work of a method, in forward passes of one sequence through the dense model.

    Args:
        fit: once, for all targets.
        per_target: for each target.
        per_build: for each model that is built for a target, by training while it is pruned.
    """

    fit: float = 0.0
    per_target: float = 0.0
    per_build: float = 0.0


class OneShot:
    """The settings that methods without training share."""

    trains: ClassVar[bool] = False
    by_parameters: ClassVar[bool] = False
    by_time: ClassVar[bool] = True
    finetuning_length: ClassVar[Finetuning] = Finetuning()

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def check(self, context: PruneContext) -> None:
        """Accept any model with a structure."""

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: no texts."""
        return RoleSizes()
