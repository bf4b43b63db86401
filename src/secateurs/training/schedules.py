"""Schedules of a training: the cubic schedule of a sparsity, and the Noam schedule of a learning rate."""

from __future__ import annotations

__all__ = ["cubic_sparsity", "noam"]


def cubic_sparsity(now: float, begin: float, end: float, final: float, start: float = 0.05) -> float:
    """The sparsity at time ``now`` in automated gradual pruning (Zhu and Gupta 2017, "To prune, or not to prune").

        s(e) = s_f + (s_0 - s_f) (1 - (e - e_0) / (e_1 - e_0))^3

    The sparsity rises fast at first and slowly towards the end. It is 0 before ``e_0`` and ``s_f`` after ``e_1``.

    Args:
        now: time ``e``, in steps or any other unit.
        begin: time ``e_0`` of the first cut, in the same unit.
        end: time ``e_1`` at which the final sparsity is reached, in the same unit; not before ``begin``.
        final: final sparsity ``s_f``.
        start: initial sparsity ``s_0``; values above ``final`` count as ``final``.

    >>> [round(cubic_sparsity(now, 10.0, 20.0, 0.8), 4) for now in (9.0, 10.0, 15.0, 20.0, 30.0)]
    [0.0, 0.05, 0.7063, 0.8, 0.8]
    """
    if now < begin:
        return 0.0
    start = min(start, final)
    left = max(0.0, 1 - (now - begin) / (end - begin)) if end > begin else 0.0
    return final + (start - final) * left**3


def noam(step: int, warmup: int) -> float:
    """The factor of the learning rate at step ``k = step + 1``, with its peak of 1 after ``w`` steps (Vaswani et al. 2017).

        w^(1/2) min(k^(-1/2), k w^(-3/2))

    Args:
        step: optimiser steps done.
        warmup: steps ``w`` of linear warm-up.

    >>> [round(noam(step, 4), 3) for step in (0, 1, 3, 15)]
    [0.25, 0.5, 1.0, 0.5]
    """
    warmup, step = max(1, warmup), step + 1
    return min((warmup / step) ** 0.5, step / warmup)
