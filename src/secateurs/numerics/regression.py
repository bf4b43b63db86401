"""Ridge regression from accumulated sums: the linear map of inputs ``x`` that is nearest to targets ``t``.

    minimise over W, b:  sum over tokens w ||W x + b - t||^2  +  lambda ||W - W0||^2

The ridge pulls ``W`` towards ``W0``; ``lambda`` is the damping times the mean over the inputs ``i`` of ``sum w x_i^2``. With
a bias the sums are centred, without a bias they are not.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from secateurs.numerics.hessian import Moments, transposed_product

__all__ = ["RegressionSums"]

CHUNK_TOKENS = 4096
"""Tokens that are collected before their products are computed."""


class RegressionSums:
    """Sums of products of input ``x`` and target ``t`` over tokens of weight ``w``: float32 products, float64 sums.

    Attributes:
        cross: ``sum w t x^T``; exists after the first ``flush`` of tokens.
        targets: ``sum w t``; exists after the first ``flush`` of tokens.
    """

    cross: Float64[Tensor, "rows columns"]
    targets: Float64[Tensor, " rows"]

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @property
    def moments(self) -> Moments:
        """Moments of ``x``.

        Raises:
            ValueError: no token was added yet.
        """
        if self._moments is None:
            raise ValueError("no token was added to the regression yet")
        return self._moments

    def add(
        self,
        inputs: Float[Tensor, "*batch columns"],
        targets: Float[Tensor, "*batch rows"],
        tokens: Bool[Tensor, "*batch"] | None,
        weights: Float[Tensor, "*batch"] | None = None,
    ) -> None:
        """Add the tokens of a batch.

        Args:
            inputs: inputs ``x``.
            targets: targets ``t``.
            tokens: token mask, true at the positions to add; ``None`` = all positions.
            weights: weight ``w`` of each position; ``None`` = 1. Either all batches have weights or none has.
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
        """Add the products of the collected tokens to the sums; call it once after the last ``add``."""
        if self._waiting:
            x, t = torch.cat([x for x, *_ in self._waiting]), torch.cat([t for _, t, _ in self._waiting])
            weights = [w for *_, w in self._waiting if w is not None]
            w = torch.cat(weights).double() if weights else None
            if self._moments is None:
                self._moments = Moments(x.shape[1], device=x.device)
                self.cross = torch.zeros(t.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
                self.targets = torch.zeros(t.shape[1], dtype=torch.float64, device=x.device)
            self._moments.update(x, w)
            if w is not None:
                t = t * w.float()[:, None]
            self.cross = self.cross + transposed_product(t, x).double()
            self.targets = self.targets + t.double().sum(0)
            self._waiting.clear()

    def solve(
        self, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, damping: float
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
        """Solve the regression, with an intercept if there is a bias.

        Args:
            weight: ``W0``, towards which the ridge pulls the solution.
            bias: a bias of the module, of which only dtype and device are used; ``None`` = no intercept.
            damping: ridge relative to the mean square of an input.

        Returns:
            ``W`` and ``b`` (or ``None``), with the dtypes and devices of ``weight`` and ``bias``.
        """
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
