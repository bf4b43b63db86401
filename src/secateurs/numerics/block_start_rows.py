"""``BlockStartRows``: rows that a block of removals needs, computed together before the block begins.

A product of many rows takes little longer than a product of one, so rows of all likely removals are computed at once.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from secateurs.numerics.spd import symmetric_rows
from secateurs.numerics.unit_columns import unit_columns

__all__ = ["BlockStartRows"]


class BlockStartRows:
    """Rows of ``P`` and ``W^T W`` at the start of a block of removals, computed in advance for likely removals.

    Args:
        inverse: inverse Hessian ``P``, lower triangle.
        weight: refitted weight ``W``.
        positions: units whose rows are computed in advance.
        width: adjacent columns per unit.
    """

    def __init__(
        self,
        inverse: Float[np.ndarray, "size size"],
        weight: Float[np.ndarray, "rows size"],
        positions: Int[np.ndarray, " candidates"],
        width: int,
    ) -> None:
        self._inverse, self._weight, self._width = inverse, weight, width
        self._ready: dict[int, tuple[Float[np.ndarray, "width size"], Float[np.ndarray, "width size"]]] = {}
        self.add(positions)

    def __contains__(self, position: int) -> bool:
        return position in self._ready

    def add(self, positions: Int[np.ndarray, " candidates"]) -> None:
        """Compute the rows of the given units; one call for several units is cheaper than one call each."""
        columns = unit_columns(positions, self._width)
        inverse_rows = symmetric_rows(self._inverse, columns)
        gram_rows = self._weight[:, columns].T @ self._weight
        for slot, position in enumerate(positions.tolist()):
            here = slice(slot * self._width, (slot + 1) * self._width)
            self._ready[position] = (inverse_rows[here], gram_rows[here])

    def of(self, position: int) -> tuple[Float[np.ndarray, "width size"], Float[np.ndarray, "width size"]]:
        """The rows of the unit at ``position`` in ``P`` and in ``W^T W``."""
        return self._ready[position]
