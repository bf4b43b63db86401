"""The hard concrete distribution: gates in [0, 1] that are exactly 0 or 1 with positive probability, and can be learned.

Louizos, Welling, Kingma (2018), eq. 10 to 12. With a uniform ``u`` and a parameter ``log_alpha`` per unit

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),   z = clip(s (r - l) + l, 0, 1)

which is stretched beyond both ends, to ``l = -0.1`` and ``r = 1.1``, and clipped. It is open (``z > 0``) with
probability ``sigmoid(log_alpha - beta log(-l / r))``; the gradient of ``z`` in ``log_alpha`` needs no estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["HardConcrete"]

_EDGE = 1e-6  # u is drawn this far from 0 and 1


@dataclass(frozen=True)
class HardConcrete:
    """Constants of the distribution, and what follows from them.

    Args:
        beta: temperature; the lower, the closer to a coin.
        low: left end of the stretched interval, below 0.
        high: right end, above 1.
    """

    beta: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    @property
    def shift(self) -> float:
        """``-beta log(-low / high)``: gates with ``log_alpha`` above minus this are open more often than not."""
        return -self.beta * math.log(-self.low / self.high)

    def sample(self, log_alpha: Float[Tensor, " units"], uniform: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        """One sample of every gate.

        Args:
            log_alpha: parameter of each gate.
            uniform: independent draws from [0, 1].
        """
        uniform = uniform.clamp(_EDGE, 1 - _EDGE)
        return self._stretched(torch.sigmoid((torch.logit(uniform) + log_alpha) / self.beta))

    def open_probability(self, log_alpha: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        """``P(z > 0)``."""
        return torch.sigmoid(log_alpha + self.shift)

    def soft(self, log_alpha: Float[Tensor, " units"], magic: float = 0.8) -> Float[Tensor, " units"]:
        """The value of an open gate when nothing is sampled: ``sigmoid(magic log_alpha / beta)`` (Wang et al. 2020)."""
        return torch.sigmoid(magic * log_alpha / self.beta)

    def deterministic(
        self, log_alpha: Float[Tensor, " units"], open_units: int | None = None
    ) -> Float[Tensor, " units"]:
        """Gates to evaluate with: as many are open as are expected to be, the others exactly 0.

        Args:
            log_alpha: parameter of each gate.
            open_units: how many are open; the expectation, rounded, if ``None``. The lowest ``log_alpha`` close first;
                among equals, the last unit.
        """
        expected = float(self.open_probability(log_alpha.detach().double()).sum())
        count = len(log_alpha) - round(len(log_alpha) - expected) if open_units is None else open_units
        if not 0 <= count <= len(log_alpha):
            raise ValueError(f"{count} of {len(log_alpha)} gates cannot be open")
        open_first = log_alpha.detach().sort(descending=True, stable=True).indices[:count]
        return torch.zeros_like(log_alpha).index_copy(0, open_first, self.soft(log_alpha)[open_first])

    def _stretched(self, s: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
        return (s * (self.high - self.low) + self.low).clamp(0.0, 1.0)
