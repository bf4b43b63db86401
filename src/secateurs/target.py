"""What the user asks for (``Speedup``, ``Sparsity``) and what a method must keep to (``Budget``)."""

from __future__ import annotations

from dataclasses import dataclass

from secateurs.cost import ParameterCost
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.latency_table import LatencyTable

__all__ = ["Budget", "Sparsity", "Speedup", "Target"]


@dataclass(frozen=True)
class Budget:
    """``cost(counts) <= limit``.

    Args:
        limit: milliseconds or parameters.
        cost: what is limited.
        folder: of the target it serves; a corrected budget serves the same.
    """

    limit: float
    cost: LatencyTable | ParameterCost
    folder: str = ""


@dataclass(frozen=True)
class Speedup:
    """Dense ms / pruned ms, end to end, in one environment.

    >>> Speedup(2).folder
    'speedup-2.00x'
    """

    value: float

    def __post_init__(self) -> None:
        if not self.value > 1:
            raise RecipeError(f"a speed-up of {self.value:g} asks for nothing; give a number greater than 1, such as 2")

    def __str__(self) -> str:
        return f"{self.value:.2f}x"

    @property
    def folder(self) -> str:
        """The name of the model folder of this target."""
        return f"speedup-{self.value:.2f}x"

    def budget(self, table: LatencyTable) -> Budget:
        """The time the pruned model may take: ``dense_ms / value``.

        Raises:
            TargetUnreachable: removing every unit is not enough.
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
    """Removed fraction of the prunable parameters."""

    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise RecipeError(f"a sparsity of {self.value:g} is no fraction to remove; give a number between 0 and 1")

    def __str__(self) -> str:
        return f"{100 * self.value:.0f}%"

    @property
    def folder(self) -> str:
        """The name of the model folder of this target."""
        return f"sparsity-{self.value:.2f}"

    def budget(self, cost: ParameterCost) -> Budget:
        """The parameters that may be left."""
        own = cost.of_groups()
        return Budget(own.fixed + (1 - self.value) * own.dense, own, self.folder)


Target = Speedup | Sparsity
