"""Noam's schedule of the learning rate: up in a straight line, then down with the root of the step."""

from __future__ import annotations

__all__ = ["noam"]


def noam(step: int, warmup: int) -> float:
    """``min(k^-1/2, k w^-3/2)``, with a peak of 1 after ``w`` steps (Vaswani et al. 2017).

    >>> [round(noam(step, 4), 3) for step in (0, 1, 3, 15)]
    [0.25, 0.5, 1.0, 0.5]
    """
    warmup, step = max(1, warmup), step + 1
    return min((warmup / step) ** 0.5, step / warmup)
