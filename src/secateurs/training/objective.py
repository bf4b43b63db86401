"""``Objective``: the loss that a training minimises, and how its parameters are optimised.

The training loop is in ``secateurs.training.trainer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CONSTANT_RATE", "Objective"]

CONSTANT_RATE = "own_rate"
"""Key of a parameter group; ``True``: the schedule does not change the group's learning rate. Checkpoints store the key, so
its text must not change."""


class Objective(ABC):
    """A loss, with methods that a subclass overrides to change how the training loop optimises it.

    By default all parameters of the model have one learning rate, and the norm of all their gradients is clipped.
    """

    name: str
    """Name in messages and in the names of tracked runs, such as ``"recovery"`` or ``"pruning"``."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            model: the trained module, possibly wrapped for several processes: call it, do not look inside.
            inputs: the batch, on the device of ``model``.
            step: optimiser steps done.
        """

    def trained_module(self, model: nn.Module) -> nn.Module:
        """The module that is trained: the model, or a module around it with additional parameters."""
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser (see ``secateurs.training.optimizer.build_optimizer``).

        A group with ``CONSTANT_RATE: True`` keeps its ``lr`` during the full training.

        Args:
            model: the trained module.
        """
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def clipped_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters whose common gradient norm is clipped.

        Args:
            model: the trained module.
        """
        return model.parameters()

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:  # noqa: B027
        """Called after every optimiser step.

        Args:
            model: the trained module.
            step: optimiser steps done.
            steps: optimiser steps of the full training.
        """

    def logged_values(self) -> dict[str, float]:
        """Values that trackers log in addition to the loss: name -> value."""
        return {}
