"""The targets in a recipe: what a list of speed-ups, sparsities or kept qualities may hold."""

from __future__ import annotations

from secateurs.structure.target import Keep, Sparsity, Speedup, Target, ascending

__all__ = ["check_one_kind", "keeps", "sparsities", "speedups", "targets_of"]


def speedups(values: tuple[float, ...]) -> tuple[float, ...]:
    """Speed-ups in ascending order.

    Raises:
        ValueError: one is not greater than 1, or two are too close.
    """
    for value in values:
        if not value > 1:
            raise ValueError(f"a speed-up of {value:g} is not greater than 1")
    return ascending(values, Speedup)


def sparsities(values: tuple[float, ...]) -> tuple[float, ...]:
    """Sparsities in ascending order.

    Raises:
        ValueError: one is not between 0 and 1, or two are too close.
    """
    for value in values:
        if not 0 < value < 1:
            raise ValueError(f"a sparsity of {value:g} is not between 0 and 1")
    return ascending(values, Sparsity)


def keeps(values: tuple[float, ...]) -> tuple[float, ...]:
    """Kept qualities in ascending order.

    Raises:
        ValueError: one is not between 0 and 1, or two are too close.
    """
    for value in values:
        if not 0 < value < 1:
            raise ValueError(f"a kept quality of {value:g} is not between 0 and 1, such as 0.99")
    return ascending(values, Keep)


def check_one_kind(speedup: tuple[float, ...], sparsity: tuple[float, ...], keep: tuple[float, ...]) -> None:
    """Refuse targets of two kinds, and no target.

    Raises:
        ValueError: see above.
    """
    if keep and (speedup or sparsity):
        raise ValueError("keep finds the speed-up itself: give keep, or speed-ups, or sparsities")
    if speedup and sparsity:
        raise ValueError("give speed-ups or sparsities, not both")
    if not (speedup or sparsity or keep):
        raise ValueError("give at least one speed-up (or sparsity, or keep)")


def targets_of(speedup: tuple[float, ...], sparsity: tuple[float, ...], keep: tuple[float, ...]) -> tuple[Target, ...]:
    """The targets of a run in ascending order, all of one kind."""
    return (*map(Speedup, speedup), *map(Sparsity, sparsity), *map(Keep, keep))
