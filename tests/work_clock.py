"""A clock that does not tick: it reads the work done, so that every latency in a test is exact and repeatable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from secateurs.clock import Reading

__all__ = ["product_clock", "work_clock"]


OPERATION = 100
"""What starting an operation costs, in elements."""


class _Elements(TorchDispatchMode):
    """Counts the elements of every tensor that any operation returns, and a fixed price of each operation."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.total += OPERATION + sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


def work_clock(run: Callable[[], object]) -> Reading:
    """One millisecond per thousand elements computed; starting an operation counts as ``OPERATION`` of them."""
    with _Elements() as elements:
        run()
    return Reading(elements.total / 1e3)


def product_clock(run: Callable[[], object]) -> Reading:
    """One millisecond per thousand operations of matrix products, and nothing else: two factors cost what they have."""
    with FlopCounterMode(display=False) as products:
        run()
    return Reading(products.get_total_flops() / 1e3)
