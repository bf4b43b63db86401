"""Timers that count work in place of time, so that latencies in tests are exact and repeatable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from secateurs.latency.timer import Reading

__all__ = ["product_clock", "work_clock"]

OPERATION = 100
"""Elements that the start of an operation counts as."""


class _Elements(TorchDispatchMode):
    """Counts the elements of every tensor that an operation returns, and ``OPERATION`` for every operation."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.total += OPERATION + sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


def work_clock(run: Callable[[], object]) -> Reading:
    """A run takes one millisecond per thousand elements that it computes; every operation counts as ``OPERATION`` more."""
    with _Elements() as elements:
        run()
    return Reading(elements.total / 1e3)


def product_clock(run: Callable[[], object]) -> Reading:
    """A run takes one millisecond per thousand floating-point operations of its matrix products; all else takes no time."""
    with FlopCounterMode(display=False) as products:
        run()
    return Reading(products.get_total_flops() / 1e3)
