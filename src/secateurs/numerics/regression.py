"""Least squares from sums: the linear map of some inputs that comes nearest to some targets.

    minimise over W, b:  sum over tokens w ||W x + b - t||^2  +  lambda ||W - W0||^2

``W0`` is where the answer should stay near, ``lambda`` the damping times the mean square of an input. Without a bias to
solve for, moments are not centred.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateurs.numerics.hessian import Moments, transposed_product

__all__ = ["Sums"]

CHUNK_TOKENS = 4096
"""Tokens gathered before they are added to the moments."""


class Sums:
    """Moments of input ``x`` and target ``t`` over the tokens that count: fp32 products of many tokens, fp64 sums.

    Attributes:
        moments: of ``x``.
        cross: ``sum w t x^T``, with ``w`` the weight of a token, or 1.
        targets: ``sum w t``.
    """

    def __init__(self) -> None:
        self.moments: Any = None
        self.cross: Any = 0.0
        self.targets: Any = 0.0
        self._waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(
        self,
        inputs: Float[Tensor, "*batch columns"],
        targets: Float[Tensor, "*batch rows"],
        tokens: Bool[Tensor, "*batch"] | None,
        weights: Float[Tensor, "*batch"] | None = None,
    ) -> None:
        """Take in a batch: the positions where ``tokens`` is true, or all of them.

        Args:
            inputs: ``x``.
            targets: ``t``.
            tokens: which positions count.
            weights: how much each of them counts; either all batches have weights or none.
        """
        x, t = inputs.flatten(0, -2), targets.flatten(0, -2)
        w = None if weights is None else weights.flatten()
        if tokens is not None:
            counted = tokens.flatten()
            x, t, w = x[counted], t[counted], None if w is None else w[counted]
        self._waiting.append((x.float(), t.float(), w))
        if sum(len(x) for x, *_ in self._waiting) >= CHUNK_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Add the tokens gathered so far."""
        if self._waiting:
            x, t = torch.cat([x for x, *_ in self._waiting]), torch.cat([t for _, t, _ in self._waiting])
            weights = [w for *_, w in self._waiting if w is not None]
            w = torch.cat(weights).double() if weights else None
            if self.moments is None:
                self.moments = Moments(x.shape[1], device=x.device)
            self.moments.update(x, w)
            if w is not None:
                t = t * w.float()[:, None]
            self.cross = self.cross + transposed_product(t, x).double()
            self.targets = self.targets + t.double().sum(0)
            self._waiting.clear()

    def solve(
        self, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, damping: float
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
        """The ridge regression towards ``weight``, with an intercept where there is a bias; in its type, on its device."""
        moments, count = self.moments, self.moments.count
        gram, cross = (moments.gram if bias is None else moments.centred()) / count, self.cross / count
        mean_in, mean_out = moments.total / count, self.targets / count
        solved = weight.to(gram)
        if bias is not None:
            cross = cross - torch.outer(mean_out, mean_in)
        ridge = damping * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = torch.cholesky_solve((cross + ridge * solved).T, torch.linalg.cholesky(system)).T
        return solved.to(weight), None if bias is None else (mean_out - solved @ mean_in).to(bias)
