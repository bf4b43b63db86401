"""Automated gradual pruning (Zhu and Gupta 2017, "To prune, or not to prune"): how sparse a model is while it is pruned.

    s(e) = s_f + (s_0 - s_f) (1 - (e - e_0) / (e_1 - e_0))^3

It falls fast while there is much to spare, and slowly towards the end. Before ``e_0`` nothing is pruned, after ``e_1`` the
sparsity stays what it is.
"""

from __future__ import annotations

__all__ = ["gradual"]


def gradual(now: float, begin: float, end: float, final: float, start: float = 0.05) -> float:
    """The sparsity at the time ``now``.

    Args:
        now: steps, or any other measure of time.
        begin: ``e_0``, in the same measure.
        end: ``e_1``, not before ``begin``.
        final: ``s_f``.
        start: ``s_0``; where the final sparsity is lower, that one from the beginning.

    >>> [round(gradual(now, 10.0, 20.0, 0.8), 4) for now in (9.0, 10.0, 15.0, 20.0, 30.0)]
    [0.0, 0.05, 0.7062, 0.8, 0.8]
    """
    if now < begin:
        return 0.0
    start = min(start, final)
    left = max(0.0, 1 - (now - begin) / (end - begin)) if end > begin else 0.0
    return final + (start - final) * left**3
