"""The targets in a recipe: what a list of speed-ups, sparsities or kept qualities may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from secateurs.structure.target import Keep, Sparsity, Speedup, Target, ascending

__all__ = [
    "AUTO",
    "CURVE",
    "Auto",
    "as_speedups",
    "check_one_kind",
    "keeps",
    "reachable",
    "sparsities",
    "speedups",
    "targets_of",
]

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""In the place of speed-ups: those of ``CURVE`` that can be reached."""

CURVE = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""The speed-ups of ``speedup: auto``."""

REACHABLE = 0.9
"""``auto`` leaves out speed-ups above this share of the largest one, near which hardly a unit is left to choose."""


def as_speedups(value: object) -> object:
    """A number, ``auto`` or several of them as a list; texts that are numbers become numbers.

    Raises:
        ValueError: a text is neither a number nor ``auto``.
    """
    values = (value,) if isinstance(value, int | float | str) else value
    return [_number(each) for each in values] if isinstance(values, Sequence) else values


def _number(value: object) -> object:
    if not isinstance(value, str) or value == AUTO:
        return value
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"a speed-up of {value!r} is neither a number nor {AUTO}") from None


def speedups(values: tuple[float | Auto, ...]) -> tuple[float | Auto, ...]:
    """Speed-ups in ascending order, or ``auto`` alone.

    Raises:
        ValueError: one is not greater than 1, two are too close, or ``auto`` stands beside a number.
    """
    numbers = tuple(value for value in values if value != AUTO)
    if len(numbers) < len(values):
        if numbers:
            raise ValueError("auto chooses the speed-ups itself: give auto, or numbers")
        return (AUTO,)
    return _ascending_speedups(numbers)


def _ascending_speedups(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not value > 1:
            raise ValueError(f"a speed-up of {value:g} is not greater than 1")
    return ascending(values, Speedup)


def sparsities(values: tuple[float, ...]) -> tuple[float, ...]:
    """Sparsities in ascending order.

    Raises:
        ValueError: one is not between 0 and 1, or two are too close.
    """
    _check_shares(values, "a sparsity of {:g} is not between 0 and 1")
    return ascending(values, Sparsity)


def keeps(values: tuple[float, ...]) -> tuple[float, ...]:
    """Kept qualities in ascending order.

    Raises:
        ValueError: one is not between 0 and 1, or two are too close.
    """
    _check_shares(values, "a kept quality of {:g} is not between 0 and 1, such as 0.99")
    return ascending(values, Keep)


def _check_shares(values: tuple[float, ...], otherwise: str) -> None:
    for value in values:
        if not 0 < value < 1:
            raise ValueError(otherwise.format(value))


def check_one_kind(speedup: Sequence[object], sparsity: Sequence[object], keep: Sequence[object]) -> None:
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


def targets_of(
    speedup: tuple[float | Auto, ...], sparsity: tuple[float, ...], keep: tuple[float, ...]
) -> tuple[Target, ...]:
    """The targets of a run in ascending order, all of one kind; for ``auto`` all speed-ups of ``CURVE``."""
    numbers = CURVE if AUTO in speedup else [value for value in speedup if value != AUTO]
    return (*map(Speedup, numbers), *map(Sparsity, sparsity), *map(Keep, keep))


def reachable(speedup: tuple[float | Auto, ...], targets: tuple[Target, ...], largest: float) -> tuple[Target, ...]:
    """The targets without those that ``auto`` leaves out. The smallest one stays, to be refused if it is out of reach.

    Args:
        speedup: the speed-ups of the recipe.
        targets: all of its targets.
        largest: largest reachable speed-up.
    """
    if AUTO not in speedup:
        return targets
    return targets[:1] + tuple(target for target in targets[1:] if target.value <= REACHABLE * largest)
