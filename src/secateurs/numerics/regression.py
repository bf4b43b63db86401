"""Ridge regression from accumulated sums: the linear map of inputs ``x`` that is nearest to targets ``t``.

    minimise over W, b:  sum over tokens w ||W x + b - t||^2  +  lambda ||W - W0||^2

The ridge pulls ``W`` towards ``W0``; ``lambda`` is the damping times the mean over the inputs ``i`` of ``sum w x_i^2``. With
a bias the sums are centred, without a bias they are not. The sums are accumulated centred, as in
``secateurs.numerics.hessian``, so that a constant input has products of exactly zero.
"""

from __future__ import annotations

import logging

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from secateurs.numerics.hessian import Moments, centred_rows, transposed_product
from secateurs.numerics.spd import next_damping

__all__ = ["RegressionSums"]

_LOG = logging.getLogger(__name__)

CHUNK_TOKENS = 4096
"""Tokens that are collected before their products are computed."""


class RegressionSums:
    """Centred products of input ``x`` and target ``t`` over tokens of weight ``w``: float32 products, float64 sums."""

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self._cross: Float64[Tensor, "rows columns"] = torch.empty(0, 0, dtype=torch.float64)
        self._target_mean: Float64[Tensor, " rows"] = torch.empty(0, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @property
    def cross(self) -> Float64[Tensor, "rows columns"]:
        """``sum w t x^T``."""
        return self._cross + self.moments.count * torch.outer(self._target_mean, self.moments.mean)

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
        if not self._waiting:
            return
        x, t = torch.cat([x for x, *_ in self._waiting]), torch.cat([t for _, t, _ in self._waiting])
        weights = [w for *_, w in self._waiting if w is not None]
        w = torch.cat(weights).double() if weights else None
        self._waiting.clear()
        if self._moments is None:
            self._moments = Moments(x.shape[1], device=x.device)
            self._cross = torch.zeros(t.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
            self._target_mean = torch.zeros(t.shape[1], dtype=torch.float64, device=x.device)
        if w is not None and not bool((w > 0).all()):
            x, t, w = x[w > 0], t[w > 0], w[w > 0]
        if not len(x):
            return
        moments, before = self._moments, self._moments.count
        centred_in, centred_out = centred_rows(x, w), centred_rows(t, w)
        count = centred_in.count
        step_in, step_out = centred_in.mean - moments.mean, centred_out.mean - self._target_mean
        self._cross += transposed_product(centred_out.rows, centred_in.rows).double()
        if before:
            self._cross += before * count / (before + count) * torch.outer(step_out, step_in)
        self._target_mean = self._target_mean + step_out * (count / (before + count))
        moments.add(centred_in)

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
        gram = (moments.gram if bias is None else moments.centred()) / count
        cross = (self.cross if bias is None else self._cross) / count
        held = weight.to(gram)
        mean = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        while True:
            ridge = damping * mean
            system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            factor, failed = torch.linalg.cholesky_ex(system)
            if not bool(failed):
                break
            if not bool(torch.isfinite(gram).all()):
                raise ValueError("the second moments of the inputs are not finite")
            # Ends: from a damping of the number of inputs on, the ridge exceeds every eigenvalue.
            damping = next_damping(damping)
            _LOG.debug("regression of size %d repeated with damping %g", len(gram), damping)
        solved = torch.cholesky_solve((cross + ridge * held).T, factor).T
        return solved.to(weight), None if bias is None else (self._target_mean - solved @ moments.mean).to(bias)
