"""Structured optimal brain surgeon: the order in which the units of one reader are best removed.

ZipLM (Kurtic, Frantar, Alistarh 2023) removes, one at a time, the unit whose removal raises ``||W' X - W X||_F^2``
least when all the other weights are refitted. With ``P = H^-1`` of the survivors the rise for unit ``S`` is
``tr(W_S P_SS^-1 W_S^T)``; then ``W -= W_S P_SS^-1 P[S,:]`` and ``P -= P[:,S] P_SS^-1 P[S,:]``.

Differs from the paper in speed only: every removal is a rank-``width`` downdate, and those are applied lazily, a block
of removals at a time, as matrix products. The order is that of the one-at-a-time recursion, not an approximation.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from secateurs.numerics.readers import reader_arrays, unit_columns
from secateurs.numerics.saliency import BlockSaliency, ColumnSaliency, NumericalBreakdownError, Saliency
from secateurs.numerics.spd import (
    add_lower_product,
    invert_lower,
    mirror_lower,
    next_damping,
    set_symmetric_rows,
    subtract_product,
    symmetric_rows,
)

__all__ = ["Elimination", "elimination_order"]

_LOG = logging.getLogger(__name__)
_PADDING = 8


@dataclasses.dataclass(frozen=True)
class Elimination:
    """The order of removal of all the units of one reader.

    Attributes:
        order: unit indices, the one removed first first.
        scores: what each removal added to the squared output error, in the Hessian's units, in the same order.
    """

    order: Int64[Tensor, " units"]
    scores: Float64[Tensor, " units"]


def elimination_order(
    weight: Float[Tensor, "rows cols"],
    hessian: Float[Tensor, "cols cols"],
    *,
    width: int = 1,
    block: int = 128,
    dtype: torch.dtype = torch.float64,
) -> Elimination:
    """Greedy order of removal, one unit at a time, all the other weights refitted after each.

    Inputs that never fire (zero on the Hessian's diagonal) count as having zero weight, hence as free to remove. Where
    rounding spoils the recursion, the inverse is rebuilt for the survivors with a slightly raised diagonal.

    Args:
        weight: the reader's weight, outputs by inputs.
        hessian: second moments of its input (see ``hessian.damped``).
        width: adjacent columns per unit: 1 for intermediate units, the head size for heads.
        block: columns removed between two updates of the inverse; changes the time taken, not the order.
        dtype: of the downdates. The inverse is always taken in float64.

    Returns:
        The order and the scores, on the CPU.

    Raises:
        ValueError: the shapes do not fit, or a number is not finite.
    """
    full_weight, full_hessian = reader_arrays(weight, hessian, width)
    full_weight = _compressed(full_weight)
    run = _Run(full_weight, full_hessian, width, max(1, block // width), np.dtype(str(dtype).removeprefix("torch.")))
    damping = 0.0
    while run.alive.any():
        try:
            run.eliminate(damping)
        except (NumericalBreakdownError, np.linalg.LinAlgError):
            damping = next_damping(damping)
            _LOG.debug("inverse rebuilt for %d units with damping %g", int(run.alive.sum()), damping)
    return Elimination(torch.tensor(run.order, dtype=torch.int64), torch.tensor(run.scores, dtype=torch.float64))


def _compressed(weight: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "fewer cols"]:
    """A weight with the same ``W^T W`` and as few rows as possible: the order depends on nothing else."""
    return np.asarray(np.linalg.qr(weight, mode="r")) if weight.shape[0] > weight.shape[1] else weight


class _Run:
    """One elimination under way: what has been removed so far, and how to go on from there."""

    def __init__(
        self,
        weight: Float[np.ndarray, "rows cols"],
        hessian: Float[np.ndarray, "cols cols"],
        width: int,
        steps: int,
        dtype: np.dtype,
    ) -> None:
        # The inputs are rescaled to a unit diagonal: then damping is relative, and no pivot can truly be less than 1.
        self._scale = np.sqrt(np.diagonal(hessian))
        self._weight, self._hessian = weight * self._scale, hessian
        self._width, self._steps, self._dtype = width, steps, dtype
        self.alive = np.ones(weight.shape[1] // width, dtype=bool)
        self.order: list[int] = []
        self.scores: list[float] = []

    def eliminate(self, damping: float) -> None:
        """Remove all the units that are left.

        Raises:
            NumericalBreakdownError: rounding got the better of the recursion; what was removed until then stands.
        """
        ids = np.flatnonzero(self.alive)
        inverse, weight = self._survivors(ids, damping)
        while len(ids):
            size = len(ids) * self._width
            ids = self._block(inverse[:size, :size], weight[:, :size], ids)

    def _survivors(
        self, ids: Int[np.ndarray, " units"], damping: float
    ) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "rows size"]]:
        """Inverse Hessian (lower triangle) and refitted weight of the survivors."""
        # Rows a cache line longer than needed: in columns of a power-of-two stride all entries share few cache sets.
        inverse = np.empty((len(self._hessian), len(self._hessian) + _PADDING))[:, : len(self._hessian)]
        np.divide(self._hessian, self._scale, out=inverse)
        inverse /= self._scale[:, None]
        inverse[np.diag_indices_from(inverse)] += damping
        weight = self._weight.copy()
        if len(ids) < len(self.alive):
            columns = unit_columns(ids, self._width)
            products = weight @ inverse[:, columns]
            inverse = inverse[np.ix_(columns, columns)]
            invert_lower(inverse)
            mirror_lower(inverse)
            weight = products @ inverse
        else:
            invert_lower(inverse)
        return inverse.astype(self._dtype, copy=False), weight.astype(self._dtype, copy=False)

    def _block(
        self,
        inverse: Float[np.ndarray, "size size"],
        weight: Float[np.ndarray, "rows size"],
        ids: Int[np.ndarray, " units"],
    ) -> Int[np.ndarray, " left"]:
        """Remove a block of units, then bring the survivors of both matrices up to date, in place."""
        width, size, steps = self._width, len(inverse), min(self._steps, len(ids))
        saliency: Saliency = ColumnSaliency(inverse, weight) if width == 1 else BlockSaliency(inverse, weight, width)
        rows = _Rows(inverse, weight, saliency.candidates(steps), width)
        factors = np.empty((steps * width, size), dtype=self._dtype)  # l of every removal
        others = np.empty((steps * width, size), dtype=self._dtype)  # z of every removal
        removed: list[int] = []
        for step in range(steps):
            done = slice(0, step * width)
            position, score = saliency.pick(ids)
            here = slice(position * width, (position + 1) * width)
            if position not in rows:
                rows.add(np.array([position]))
            inverse_rows, gram_rows = rows.of(position)
            # P[S,:] and A[S,:] as they are after the removals of this block, which have not been applied yet.
            factors_here, others_here = factors[done, here].T, others[done, here].T
            inverse_rows = inverse_rows - factors_here @ factors[done]
            gram_rows = gram_rows - factors_here @ others[done] - others_here @ factors[done]
            saliency.split(position, inverse_rows, gram_rows)
            saliency.remove(position, inverse_rows, gram_rows)
            factors[done.stop : done.stop + width] = inverse_rows
            others[done.stop : done.stop + width] = gram_rows
            removed.append(position)
            self.order.append(int(ids[position]))
            self.scores.append(score)
            self.alive[ids[position]] = False
        if steps == len(ids):
            return ids[:0]
        columns = unit_columns(np.array(removed), width)
        # The u of all the removals at once: column by column, W[:, removed] = u l[:, removed], and that is triangular.
        triangle = np.triu(factors[:, columns])
        directions = weight[:, columns] @ np.linalg.inv(triangle)
        add_lower_product(inverse, factors, factors, subtract=True)
        subtract_product(weight, directions, factors)
        return _compacted(inverse, weight, ids, np.array(removed), width)


class _Rows:
    """Rows of ``P`` and ``W^T W`` as they were at the start of a block, for the units likely to go in it."""

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
        """Make the rows of the given units ready, together where that is possible: it is cheaper."""
        columns = unit_columns(positions, self._width)
        inverse_rows = symmetric_rows(self._inverse, columns)
        gram_rows = self._weight[:, columns].T @ self._weight
        for slot, position in enumerate(positions.tolist()):
            here = slice(slot * self._width, (slot + 1) * self._width)
            self._ready[position] = (inverse_rows[here], gram_rows[here])

    def of(self, position: int) -> tuple[Float[np.ndarray, "width size"], Float[np.ndarray, "width size"]]:
        """The rows of one unit in both matrices."""
        return self._ready[position]


def _compacted(
    inverse: Float[np.ndarray, "size size"],
    weight: Float[np.ndarray, "rows size"],
    ids: Int[np.ndarray, " units"],
    removed: Int[np.ndarray, " removed"],
    width: int,
) -> Int[np.ndarray, " left"]:
    """Move the last survivors into the gaps, so that what is left is a leading block; copies as little as can be."""
    left = len(ids) - len(removed)
    gaps = removed[removed < left]
    movers = np.setdiff1d(np.arange(left, len(ids)), removed)
    ids = ids.copy()
    ids[gaps] = ids[movers]
    gap_columns, mover_columns = unit_columns(gaps, width), unit_columns(movers, width)
    moved = symmetric_rows(inverse, mover_columns)
    moved[:, gap_columns] = moved[:, mover_columns]
    size = left * width
    set_symmetric_rows(inverse[:size, :size], gap_columns, moved[:, :size])
    weight[:, gap_columns] = weight[:, mover_columns]
    return ids[:left]
