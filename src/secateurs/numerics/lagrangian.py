"""The augmented Lagrangian that drives an expected sparsity to its target, and the warm-up of the target.

    max over lambda_1, lambda_2, min over the rest:  loss + lambda_1 (s - t) + lambda_2 (s - t)^2

(Wang, Wohlwend, Lei 2020, eq. 7; the same in Xia et al. 2022.) While ``s`` is below ``t``, gradient *ascent* makes
``lambda_1`` more negative until the first term pushes ``s`` up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Lagrangian", "warmup_target"]


class Lagrangian(nn.Module):
    """The penalty and its two multipliers; the linear multiplier starts at 0.

    The multipliers are parameters to be *maximised*: put them in a separate parameter group with ``maximize=True`` and
    without weight decay.

    Args:
        stiffness: initial value of the quadratic multiplier.
        beta: constant factor of the quadratic term (a constant of FLOP's code).
    """

    def __init__(self, stiffness: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.tensor(float(stiffness)))

    def forward(self, value: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
        """``lambda_1 (value - target) + beta lambda_2 (value - target)^2``.

        Args:
            value: the expected quantity ``s``.
            target: its target ``t``, in the same unit.
        """
        gap = value - target
        return self.linear * gap + self.beta * self.quadratic * gap.square()


def warmup_target(step: int, steps: int, target: float, start: float = 0.0) -> float:
    """The target at ``step``: it rises linearly from ``start`` during the warm-up and then stays at ``target``.

    Args:
        step: optimiser steps done.
        steps: optimiser steps of the warm-up; 0 = no warm-up.
        target: value after the warm-up.
        start: value at step 0.
    """
    return start + (target - start) * min(1.0, step / steps) if steps > 0 else target
