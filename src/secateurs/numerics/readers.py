"""One reader's weight and Hessian as float64 arrays, and which of its columns belong to which unit."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["reader_arrays", "unit_columns"]


def reader_arrays(
    weight: Float[Tensor, "rows cols"], hessian: Float[Tensor, "cols cols"], width: int
) -> tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "cols cols"]]:
    """Float64 arrays of the weight and the Hessian, with the inputs that never fire made harmless.

    Such an input has zero on the Hessian's diagonal; it gets 1 there and a zero weight. The arrays may share memory
    with the arguments: they are for reading only.

    Raises:
        ValueError: the columns cannot be split into units, a number is not finite, or the diagonal is negative.
    """
    if width < 1 or weight.shape[1] % width:
        raise ValueError(f"{weight.shape[1]} columns cannot be split into units of width {width}")
    full_weight = weight.detach().to("cpu", torch.float64).numpy()
    full_hessian = hessian.detach().to("cpu", torch.float64).numpy()
    diagonal = np.diagonal(full_hessian)
    if not (np.isfinite(full_weight).all() and np.isfinite(full_hessian).all() and (diagonal >= 0).all()):
        raise ValueError("the weight and the Hessian must be finite, and the Hessian's diagonal must not be negative")
    dead = diagonal == 0
    if dead.any():
        full_hessian = full_hessian.copy()
        full_hessian[dead, :] = 0.0
        full_hessian[:, dead] = 0.0
        full_hessian[dead, dead] = 1.0
        full_weight = np.where(dead, 0.0, full_weight)
    return full_weight, full_hessian


def unit_columns(units: Int[np.ndarray, " units"], width: int) -> Int[np.ndarray, " columns"]:
    """The columns of the given units, unit after unit."""
    return units if width == 1 else (units[:, None] * width + np.arange(width)).ravel()
