"""The hard concrete distribution: differentiable random gates in [0, 1] that are exactly 0 or 1 with positive probability.

Louizos, Welling, Kingma (2018), eq. 10 to 12. With uniform noise ``u`` and one parameter ``log_alpha`` per unit

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),   z = clip(s (r - l) + l, 0, 1)

The interval is stretched from [0, 1] to ``[l, r] = [-0.1, 1.1]`` and the result is clipped. A gate is open (``z > 0``) with
probability ``sigmoid(log_alpha - beta log(-l / r))``. ``z`` is differentiable in ``log_alpha``, so no gradient estimator is
needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["HardConcrete"]

_EDGE = 1e-6  # smallest distance of u from 0 and 1, where its logit is infinite


@dataclass(frozen=True)
class HardConcrete:
    """The distribution for given constants.

    Args:
        beta: temperature; a lower temperature makes values between 0 and 1 rarer.
        low: left end of the stretched interval, below 0.
        high: right end of the stretched interval, above 1.
    """

    beta: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    @property
    def shift(self) -> float:
        """``-beta log(-low / high)``; gates with ``log_alpha > -shift`` are open with probability above 1/2."""
        return -self.beta * math.log(-self.low / self.high)

    def sample(self, log_alpha: Float[Tensor, " units"], uniform: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        """Draw one sample of every gate.

        Args:
            log_alpha: parameter of each gate.
            uniform: independent uniform noise in [0, 1], one number per gate.
        """
        uniform = uniform.clamp(_EDGE, 1 - _EDGE)
        return self._stretched(torch.sigmoid((torch.logit(uniform) + log_alpha) / self.beta))

    def open_probability(self, log_alpha: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        """``P(z > 0) = sigmoid(log_alpha + shift)`` of every gate."""
        return torch.sigmoid(log_alpha + self.shift)

    def soft(self, log_alpha: Float[Tensor, " units"], magic: float = 0.8) -> Float[Tensor, " units"]:
        """The value of an open gate without noise: ``sigmoid(magic log_alpha / beta)`` (Wang et al. 2020).

        Args:
            log_alpha: parameter of each gate.
            magic: constant of the authors' code.
        """
        return torch.sigmoid(magic * log_alpha / self.beta)

    def deterministic(
        self, log_alpha: Float[Tensor, " units"], open_units: int | None = None
    ) -> Float[Tensor, " units"]:
        """Gates without noise, for evaluation: ``soft`` of the ``open_units`` largest ``log_alpha``, 0 for the others.

        Args:
            log_alpha: parameter of each gate.
            open_units: number of open gates; ``None`` = the expected number, rounded. Of equal ``log_alpha`` the lower
                unit index stays open.

        Raises:
            ValueError: ``open_units`` is negative or larger than the number of gates.
        """
        expected = float(self.open_probability(log_alpha.detach().double()).sum())
        count = len(log_alpha) - round(len(log_alpha) - expected) if open_units is None else open_units
        if not 0 <= count <= len(log_alpha):
            raise ValueError(f"{count} of {len(log_alpha)} gates cannot be open")
        open_first = log_alpha.detach().sort(descending=True, stable=True).indices[:count]
        return torch.zeros_like(log_alpha).index_copy(0, open_first, self.soft(log_alpha)[open_first])

    def _stretched(self, s: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        return (s * (self.high - self.low) + self.low).clamp(0.0, 1.0)
