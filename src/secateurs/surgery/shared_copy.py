"""A copy of a model that shares its tensors; surgery on the copy does not change the model."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["shared_copy"]

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(model: Module, device: str | None = None, dtype: torch.dtype | None = None) -> Module:
    """Copy a model, and share every tensor whose device and dtype need not change.

    ``shrink`` replaces parameters and never writes into them. A pruned copy therefore needs memory only for the kept part of
    the parameters that were cut. Buffers get the dtypes that ``from_pretrained(dtype=...)`` gives them: tables of positions,
    biases and scales that of the parameters; vectors, which are the frequencies of rotary positions, keep their own.

    Args:
        model: a model or one of its layers.
        device: device of the copy; ``None`` = the device of ``model``.
        dtype: dtype of the floating-point parameters and buffers of the copy; ``None`` = unchanged.

    Returns:
        The copy.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = parameter.data
        moved = data.to(device=device, dtype=dtype if parameter.is_floating_point() else None)
        memo[id(parameter)] = parameter if moved is data else nn.Parameter(moved, parameter.requires_grad)
    for buffer in model.buffers():
        cast = buffer.is_floating_point() and buffer.dim() != 1
        memo[id(buffer)] = buffer.to(device=device, dtype=dtype if cast else None)
    return copy.deepcopy(model, memo)
