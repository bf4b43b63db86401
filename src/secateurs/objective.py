"""``Objective``: what a training minimises, and how its parameters learn. The loop is in ``stages/train.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["OWN_RATE", "Objective"]

OWN_RATE = "own_rate"
"""Key of an optimiser group whose learning rate the schedule leaves alone."""


class Objective(ABC):
    """A loss. What it does not say otherwise is ordinary: all parameters learn at one rate, and are clipped together."""

    name: str
    """For messages: "recovery", "pruning"."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """The loss of one batch; ``model`` may be wrapped for several processes, and must be called as it is."""

    def learner(self, model: nn.Module) -> nn.Module:
        """What is trained: the model, or a module around it that learns something besides."""
        return model

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups for AdamW. A group with ``own_rate: True`` keeps its ``lr`` while the schedule runs."""
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def clipped(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Those whose gradients are clipped, by their common norm."""
        return model.parameters()

    def stepped(self, model: nn.Module, step: int, steps: int) -> None:  # noqa: B027
        """Called after every step of the optimiser, with the number of steps done and of all steps."""

    def figures(self) -> dict[str, float]:
        """Numbers of its own for trackers, beside the loss."""
        return {}
