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
    the parameters that were cut. Buffers move to ``device`` but keep their dtype, as with ``from_pretrained(dtype=...)``.

    Args:
        model: a model or one of its layers.
        device: device of the copy; ``None`` = the device of ``model``.
        dtype: dtype of the floating-point parameters of the copy; ``None`` = unchanged.

    Returns:
        The copy.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = parameter.data
        moved = data.to(device=device, dtype=dtype if parameter.is_floating_point() else None)
        memo[id(parameter)] = parameter if moved is data else nn.Parameter(moved, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to(device=device)
    return copy.deepcopy(model, memo)
