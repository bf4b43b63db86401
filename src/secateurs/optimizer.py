"""The optimiser of a training: AdamW, and plain gradient steps for parameter groups that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["PLAIN", "AdamWWithSGD", "build_optimizer"]

PLAIN = "plain"
"""Key of a parameter group that takes plain gradient steps, ``p - lr * gradient`` (``p + lr * gradient`` if it is
maximised), in place of AdamW's."""


def build_optimizer(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay; with SGD beside it where a group is marked ``PLAIN``.

    Args:
        groups: parameter groups with their settings.
        learning_rate: of groups that name none.
    """
    adamw = [group for group in groups if not group.get(PLAIN)]
    sgd = [group for group in groups if group.get(PLAIN)]
    # Fused: one pass over the weights instead of ten, most of a step on a CPU with a large vocabulary.
    first = torch.optim.AdamW(adamw, lr=learning_rate, weight_decay=0.0, fused=True)
    return AdamWWithSGD(first, torch.optim.SGD(sgd, lr=learning_rate)) if sgd else first


class AdamWWithSGD(torch.optim.Optimizer):
    """Two optimisers that step together, for one training loop that knows one.

    Args:
        adamw: for most parameters.
        sgd: for the others.
    """

    def __init__(self, adamw: torch.optim.AdamW, sgd: torch.optim.SGD) -> None:
        # Not Optimizer's own __init__: parameters, settings and state are those of the two.
        self.parts = (adamw, sgd)
        self.defaults = adamw.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, AdamW's first. A learning rate set here is the one that counts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        return {key: value for part in self.parts for key, value in part.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of each."""
        loss = self.parts[0].step(closure)
        self.parts[1].step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by name."""
        return {"adamw": self.parts[0].state_dict(), "sgd": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self.parts, ("adamw", "sgd"), strict=True):
            part.load_state_dict(state_dict[name])
