"""``SharedArguments``: one copy of the arguments that are equal in the calls of many batches.

A position bias of shape (batch, heads, tokens, tokens) is the same for all batches of one shape (MPNet, T5). It takes twice
the memory of the hidden states of a batch. All layers of a model are given the same tensor, which is looked up once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["SharedArguments"]


class SharedArguments:
    """Replaces tensors by equal ones that were seen before, of which it keeps the last one of every shape and dtype.

    Attributes:
        nbytes: bytes of the different tensors so far.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._last: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def __call__(self, arguments: Any) -> Any:
        """The same nest of mappings, lists and tuples, with tensors replaced."""
        return self._shared(arguments, {})

    def _shared(self, value: Any, seen: dict[int, Tensor]) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen[id(value)] = self._known(value)
            return seen[id(value)]
        if type(value) is dict:
            return {name: self._shared(one, seen) for name, one in cast(Mapping[Any, Any], value).items()}
        if type(value) in (list, tuple):
            return type(value)(self._shared(one, seen) for one in cast(list[Any], value))
        return value

    def _known(self, value: Tensor) -> Tensor:
        key = value.shape, value.dtype
        last = self._last.get(key)
        if last is not None and last.device == value.device and torch.equal(last, value):
            return last
        self._last[key] = value
        self.nbytes += value.nbytes
        return value
