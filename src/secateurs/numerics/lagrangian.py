"""The augmented Lagrangian that drives an expected quantity to its target, and the warm-up of the target.

    max over lambda_1, lambda_2, min over the rest:  loss + lambda_1 (s - t) + lambda_2 (s - t)^2

(Wang, Wohlwend, Lei 2020, eq. 7; the same in Xia et al. 2022.) Where ``s`` falls short of ``t`` the first term pushes
``s`` up once ``lambda_1`` has become negative enough: gradient *ascent* on the multipliers sees to that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Lagrangian", "warmed"]


class Lagrangian(nn.Module):
    """The penalty and its two multipliers; the linear one starts at 0.

    The multipliers are parameters to be *maximised*: give them an optimiser of their own with ``maximize=True``, and no
    weight decay.

    Args:
        stiffness: where the quadratic multiplier starts.
    """

    def __init__(self, stiffness: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(()))
        self.quadratic = nn.Parameter(torch.tensor(float(stiffness)))

    def forward(self, value: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
        """``lambda_1 (value - target) + lambda_2 (value - target)^2``."""
        gap = value - target
        return self.linear * gap + self.quadratic * gap.square()


def warmed(step: int, steps: int, target: float, start: float = 0.0) -> float:
    """The target after ``step`` of ``steps`` of warm-up: a straight line from ``start``, then ``target``."""
    return start + (target - start) * min(1.0, step / steps) if steps > 0 else target
