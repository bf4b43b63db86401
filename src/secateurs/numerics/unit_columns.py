"""The weight and the Hessian of one output projection as float64 arrays, its dead inputs, and the columns of each unit."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["projection_arrays", "unit_columns"]


def projection_arrays(
    weight: Float[Tensor, "rows cols"],
    hessian: Float[Tensor, "cols cols"],
    width: int,
    dead: Bool[Tensor, " cols"] | None = None,
) -> tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "cols cols"], Bool[np.ndarray, " cols"]]:
    """Float64 arrays of the weight and the Hessian, in which dead inputs have no effect.

    A dead input gets a zero weight, 1 on the Hessian's diagonal, and zeros elsewhere in its row and column. The arrays may
    share memory with the arguments, so they must not be written to.

    Args:
        weight: weight of the output projection, outputs by inputs.
        hessian: second moments of its inputs.
        width: adjacent columns per unit.
        dead: mask of the dead inputs (``Moments.dead``); inputs with zero on the diagonal are dead in any case.

    Returns:
        The weight, the Hessian, and the mask of the dead inputs.

    Raises:
        ValueError: ``width`` does not divide the number of columns, a number is not finite, or a diagonal entry of the
            Hessian is negative.
    """
    if width < 1 or weight.shape[1] % width:
        raise ValueError(f"{weight.shape[1]} columns cannot be split into units of width {width}")
    full_weight = weight.detach().to("cpu", torch.float64).numpy()
    full_hessian = hessian.detach().to("cpu", torch.float64).numpy()
    diagonal = np.diagonal(full_hessian)
    if not (np.isfinite(full_weight).all() and np.isfinite(full_hessian).all() and (diagonal >= 0).all()):
        raise ValueError("the weight and the Hessian must be finite, and the Hessian's diagonal must not be negative")
    none = diagonal == 0
    if dead is not None:
        none = none | dead.detach().cpu().numpy()
    if none.any():
        full_hessian = full_hessian.copy()
        full_hessian[none, :] = 0.0
        full_hessian[:, none] = 0.0
        full_hessian[none, none] = 1.0
        full_weight = np.where(none, 0.0, full_weight)
    return full_weight, full_hessian, none


def unit_columns(units: Int[np.ndarray, " units"], width: int) -> Int[np.ndarray, " columns"]:
    """Column indices of the given units, unit by unit.

    Args:
        units: unit indices.
        width: adjacent columns per unit.
    """
    return units if width == 1 else (units[:, None] * width + np.arange(width)).ravel()
