"""The optimiser of a training: AdamW, with plain gradient steps (SGD) for the parameter groups that ask for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["PLAIN_SGD", "AdamWWithSGD", "build_optimizer"]

PLAIN_SGD = "plain"
"""Key of a parameter group; ``True``: the group takes plain gradient steps, ``p - lr * gradient`` (``p + lr * gradient`` with
``maximize``), instead of AdamW's. Checkpoints store the key, so its text must not change."""


def build_optimizer(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay; combined with SGD if a group is marked with ``PLAIN_SGD``.

    Args:
        groups: parameter groups with their settings.
        learning_rate: learning rate of groups without ``lr``.
    """
    adamw = [group for group in groups if not group.get(PLAIN_SGD)]
    sgd = [group for group in groups if group.get(PLAIN_SGD)]
    # Fused: one pass over the weights instead of ten, which is most of a step on a CPU with a large vocabulary.
    first = torch.optim.AdamW(adamw, lr=learning_rate, weight_decay=0.0, fused=True)
    return AdamWWithSGD(first, torch.optim.SGD(sgd, lr=learning_rate)) if sgd else first


class AdamWWithSGD(torch.optim.Optimizer):
    """Two optimisers behind the interface of one, because the training loop takes a single optimiser.

    Args:
        adamw: optimiser of most parameters.
        sgd: optimiser of the other parameters.

    Attributes:
        param_groups: the groups of both, AdamW's first. They are the dicts of the two optimisers, so a learning rate that
            is set here is the learning rate of the next step.
        state: the state of both, by parameter.
    """

    def __init__(self, adamw: torch.optim.AdamW, sgd: torch.optim.SGD) -> None:
        # Not Optimizer.__init__: parameters, settings and state belong to the two optimisers.
        self.parts = (adamw, sgd)
        self.defaults = adamw.defaults
        self._collect()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of each optimiser; returns the loss of ``closure``, if there is one."""
        loss = self.parts[0].step(closure)
        self.parts[1].step()
        self._collect()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimisers, under ``adamw`` and ``sgd``."""
        return {"adamw": self.parts[0].state_dict(), "sgd": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self.parts, ("adamw", "sgd"), strict=True):
            part.load_state_dict(state_dict[name])
        self._collect()

    def _collect(self) -> None:
        """Collect groups and state again: loading replaces the optimisers' dicts, and a first step adds state."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        for part in self.parts:
            self.state.update(part.state)
