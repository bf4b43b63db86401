"""What a projection should output so that the norm behind it gives a wanted vector."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["output_for"]

STEPS = 3
"""More steps follow the wanted vector into dimensions that the projection cannot fit."""


def output_for(
    norm: nn.Module, output: Float[Tensor, "... hidden"], wanted: Float[Tensor, "... hidden"]
) -> Float[Tensor, "... hidden"]:
    """Move ``output`` so that ``norm(output)`` comes closer to ``wanted``.

    The inverse of a norm would divide by its gains, and the small ones would let a few dimensions dominate the vector. This
    function takes a few steps of steepest descent on ``||norm(y) - wanted||^2`` instead. Each step has, for every token, the
    length that is best for the linearised norm. Dimensions with a small gain hardly move.

    Args:
        norm: the norm between the projection and the residual stream.
        output: the output of the projection, the start of the descent.
        wanted: the wanted output of the norm.

    Returns:
        The moved outputs, in fp32 or better.
    """
    with torch.inference_mode(False):  # inference tensors have no derivatives
        dtype = torch.promote_types(output.dtype, torch.float32)
        y, goal = output.to(dtype, copy=True), wanted.to(dtype, copy=True)
        for _ in range(STEPS):
            value, pull = torch.func.vjp(norm, y)[:2]
            missing = goal - value
            direction = pull(missing.to(value.dtype))[0].to(dtype)
            moved = torch.func.jvp(norm, (y,), (direction,))[1]
            length = (moved * missing).sum(-1, keepdim=True) / moved.square().sum(-1, keepdim=True).clamp_min(1e-30)
            y = (y + length * direction).detach()
        return y
