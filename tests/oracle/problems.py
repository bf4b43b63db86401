"""Weights and Hessians for the tests of the structured optimal brain surgeon."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@functools.cache
def layer(kind: str, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """A weight and a Hessian; the kinds cover the properties of calibration data."""
    weight, inputs = normal(rows, cols, seed=1), normal(cols, 3 * cols, seed=2)
    if kind == "correlated":
        inputs = normal(cols, cols, seed=3) @ inputs
    if kind == "ill-conditioned":
        inputs *= torch.logspace(-3, 0, cols, dtype=torch.float64)[
            torch.randperm(cols, generator=torch.manual_seed(0))
        ][:, None]
        inputs = torch.linalg.qr(normal(cols, cols, seed=3))[0] @ inputs
    if kind == "duplicated":
        inputs[cols // 2 :] = inputs[: cols - cols // 2]
    hessian = inputs @ inputs.T
    if kind == "duplicated":
        hessian += 1e-6 * hessian.diagonal().mean() * torch.eye(cols)
    return weight, hessian
