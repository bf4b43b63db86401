"""Copies of a model that take little memory: one that shares its tensors, and one that is shrunk and owns its tensors.

Surgery on a copy does not change the model, and a model whose parameters are swapped for others does not change its copies.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.shrink import shrink

__all__ = ["shared_copy", "shrunk_copy"]

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(model: Module, device: str | None = None, dtype: torch.dtype | None = None) -> Module:
    """Copy a model, and share the memory of every tensor whose device and dtype need not change.

    ``shrink`` replaces parameters and never writes into them. A pruned copy therefore needs memory only for the kept part of
    the parameters that were cut. What is written into a tensor of one model is written into the other one too. Buffers get
    the dtypes that ``from_pretrained(dtype=...)`` gives them: tables of positions, biases and scales that of the parameters;
    vectors, which are the frequencies of rotary positions, keep their own.

    Args:
        model: a model or one of its layers.
        device: device of the copy; ``None`` = the device of ``model``.
        dtype: dtype of the floating-point parameters and buffers of the copy; ``None`` = unchanged.

    Returns:
        The copy.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        moved = parameter.data.to(device=device, dtype=dtype if parameter.is_floating_point() else None)
        memo[id(parameter)] = nn.Parameter(moved, parameter.requires_grad)
    for buffer in model.buffers():
        cast = buffer.is_floating_point() and buffer.dim() != 1
        memo[id(buffer)] = buffer.to(device=device, dtype=dtype if cast else None).detach()
    return copy.deepcopy(model, memo)


def shrunk_copy(model: Module, structure: Structure, mask: Mask) -> Module:
    """Shrink a copy of a model that shares no memory with it, so that it can be trained. The full size is never copied.

    Args:
        model: a model whose units outside ``mask`` contribute nothing; unchanged.
        structure: what can be removed from it.
        mask: the units kept.
    """
    small = shrink(shared_copy(model), structure, mask)
    theirs = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for tensor in (*small.parameters(), *small.buffers()):
        if tensor.numel() and tensor.untyped_storage().data_ptr() in theirs:
            tensor.data = tensor.data.clone()
    return small
