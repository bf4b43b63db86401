"""Targets, which the user asks for (``Speedup``, ``Sparsity``, ``Keep``), and the ``Budget`` that a method must meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateurs.errors import RecipeError, TargetUnreachable

if TYPE_CHECKING:  # imports torch, which the check of a recipe does without
    from secateurs.structure.cost import Cost, ParameterCost, TimeCost

__all__ = ["Budget", "Keep", "Sparsity", "Speedup", "Target", "ascending"]


@dataclass(frozen=True)
class Budget:
    """The condition ``cost(counts) <= limit``.

    Args:
        limit: largest allowed cost, in the unit of ``cost`` (milliseconds or parameters).
        cost: the cost that is limited.
        folder: folder name of the target that the budget belongs to; a corrected budget keeps the name.
    """

    limit: float
    cost: Cost
    folder: str = ""


@dataclass(frozen=True)
class Speedup:
    """End-to-end speed-up, dense milliseconds / pruned milliseconds, in one environment.

    >>> Speedup(2).folder
    'speedup-2.00x'

    Args:
        value: the speed-up, greater than 1.
    """

    value: float

    def __post_init__(self) -> None:
        if not self.value > 1:
            raise RecipeError(f"a speed-up of {self.value:g} asks for nothing; give a number greater than 1, such as 2")

    def __str__(self) -> str:
        return f"{self.value:.2f}x"

    @property
    def folder(self) -> str:
        """Name of the folder of the model that is pruned to this target."""
        return f"speedup-{self.value:.2f}x"

    def budget(self, table: TimeCost) -> Budget:
        """The budget in milliseconds: ``dense_ms / value``.

        Args:
            table: latency as a function of the kept counts.

        Raises:
            TargetUnreachable: the model is too slow even with every unit removed.
        """
        if self.value >= table.largest_speedup:
            raise TargetUnreachable(
                f"Speedup {self.value:g} is unreachable on {table.environment}: removing every unit gives "
                f"{table.largest_speedup:.2f}. Lower the target, or measure on another batch or sequence length.",
                table.largest_speedup,
            )
        return Budget(table.dense_ms / self.value, table, self.folder)


@dataclass(frozen=True)
class Sparsity:
    """Removed fraction of the prunable parameters.

    Args:
        value: the fraction, between 0 and 1.
    """

    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise RecipeError(f"a sparsity of {self.value:g} is no fraction to remove; give a number between 0 and 1")

    def __str__(self) -> str:
        return f"{100 * self.value:.0f}%"

    @property
    def folder(self) -> str:
        """Name of the folder of the model that is pruned to this target."""
        return f"sparsity-{self.value:.2f}"

    def budget(self, cost: ParameterCost) -> Budget:
        """The budget in parameters: ``fixed + (1 - value) * dense``.

        Args:
            cost: parameters as a function of the kept counts.
        """
        own = cost.of_groups()
        return Budget(own.fixed + (1 - self.value) * own.dense, own, self.folder)


@dataclass(frozen=True)
class Keep:
    """Share of the dense model's quality that the fastest model keeps; the run finds its speed-up.

    >>> Keep(0.99).folder
    'keep-0.99'

    Args:
        value: the share, between 0 and 1.
    """

    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise RecipeError(
                f"a kept quality of {self.value:g} is no share to keep; give a number below 1, such as 0.99"
            )

    def __str__(self) -> str:
        return f"keep {self.value:g}"

    @property
    def folder(self) -> str:
        """Name of the folder of the model that keeps this share."""
        return f"keep-{self.value:g}"


Target = Speedup | Sparsity | Keep


def ascending(values: Iterable[float], target: Callable[[float], Target]) -> tuple[float, ...]:
    """Distinct values in ascending order.

    Args:
        values: values of targets.
        target: class of the targets, which names the folder of a value.

    Raises:
        ValueError: two values share a folder name.
    """
    distinct = sorted(set(values))
    if len({target(value).folder for value in distinct}) < len(distinct):
        raise ValueError("two targets share a folder name; let them differ by at least 0.01")
    return tuple(distinct)
