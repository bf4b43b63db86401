"""Structured optimal brain surgeon: the order in which the units of one output projection are removed.

ZipLM (Kurtic, Frantar, Alistarh 2023) repeatedly removes the unit whose removal increases ``||W' X - W X||_F^2`` least when
all other weights are refitted. With ``P = H^-1`` of the remaining units, the increase for unit ``S`` is
``tr(W_S P_SS^-1 W_S^T)``; then ``W -= W_S P_SS^-1 P[S,:]`` and ``P -= P[:,S] P_SS^-1 P[S,:]``.

This implementation differs from the paper in speed only: every removal is a downdate of rank ``width``, and the downdates of
a block of removals are applied together, as matrix products. The order is exactly the order of the one-at-a-time recursion.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from secateurs.numerics.block_start_rows import BlockStartRows
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
from secateurs.numerics.unit_columns import projection_arrays, unit_columns

__all__ = ["Elimination", "elimination_order"]

_LOG = logging.getLogger(__name__)
_PADDING = 8  # doubles in a cache line of 64 bytes
_LARGEST_DAMPING = 1e9  # a scaled Hessian is the identity to nine digits with this damping


@dataclasses.dataclass(frozen=True)
class Elimination:
    """The order of removal of all units of one output projection.

    Attributes:
        order: unit indices in order of removal; units that were not to be removed follow in ascending order.
        scores: increase of the squared output error by each removal, in the units of the Hessian, in the same order.
    """

    order: Int64[Tensor, " units"]
    scores: Float64[Tensor, " removed"]


def elimination_order(
    weight: Float[Tensor, "rows cols"],
    hessian: Float[Tensor, "cols cols"],
    *,
    width: int = 1,
    dead: Bool[Tensor, " cols"] | None = None,
    keep: int = 0,
    block: int = 128,
    dtype: torch.dtype = torch.float64,
) -> Elimination:
    """Greedy order of removal of single units, with all other weights refitted after each removal.

    Dead inputs are treated as having zero weight. Units whose inputs are all dead are removed first, in ascending order, and
    cost nothing. When rounding errors dominate the recursion, the inverse is recomputed for the remaining units with a
    slightly larger diagonal.

    Args:
        weight: weight of the output projection, outputs by inputs.
        hessian: second moments of its inputs (see ``hessian.damped``).
        width: adjacent columns per unit: 1 for intermediate units, the head size for heads.
        dead: mask of the dead inputs (``Moments.dead``); inputs with zero on the Hessian's diagonal are dead in any case.
        keep: units that need not be removed. The first removals of many units are the dearest ones, the last are cheap.
        block: columns removed between two updates of the inverse; affects the run time, not the order.
        dtype: dtype of the downdates; the inverse is always computed in float64.

    Returns:
        The order and the scores, on the CPU.

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or products of the weight overflow.
    """
    full_weight, full_hessian, none = projection_arrays(weight, hessian, width, dead)
    dead_units = none.reshape(-1, width).all(1)
    alive = np.flatnonzero(~dead_units)
    if dead_units.any():
        columns = unit_columns(alive, width)
        full_weight, full_hessian = full_weight[:, columns], full_hessian[np.ix_(columns, columns)]
    full_weight = _compressed(full_weight)
    run = _EliminationState(
        full_weight, full_hessian, width, max(1, block // width), np.dtype(str(dtype).removeprefix("torch."))
    )
    keep, damping = min(keep, len(alive)), 0.0
    while run.alive.sum() > keep:
        try:
            run.eliminate(damping, keep)
        except (NumericalBreakdownError, np.linalg.LinAlgError):
            damping = next_damping(damping)
            if damping > _LARGEST_DAMPING:
                raise ValueError("products of the weight overflow") from None
            _LOG.debug("inverse recomputed for %d units with damping %g", int(run.alive.sum()), damping)
    left = np.flatnonzero(run.alive)
    order = [*np.flatnonzero(dead_units).tolist(), *(int(alive[unit]) for unit in (*run.order, *left))]
    scores = [0.0] * int(dead_units.sum()) + run.scores
    return Elimination(torch.tensor(order, dtype=torch.int64), torch.tensor(scores, dtype=torch.float64))


def _compressed(weight: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "fewer cols"]:
    """A weight with the same ``W^T W`` and at most as many rows as columns; the order depends on ``W^T W`` alone."""
    return np.asarray(np.linalg.qr(weight, mode="r")) if weight.shape[0] > weight.shape[1] else weight


class _EliminationState:
    """State of one elimination: the units removed so far, and everything needed to continue.

    Args:
        weight: weight of the output projection.
        hessian: Hessian with a positive diagonal.
        width: adjacent columns per unit.
        steps: removals between two updates of the inverse.
        dtype: dtype of the downdates.
    """

    def __init__(
        self,
        weight: Float[np.ndarray, "rows cols"],
        hessian: Float[np.ndarray, "cols cols"],
        width: int,
        steps: int,
        dtype: np.dtype,
    ) -> None:
        # Inputs are scaled to a unit diagonal of the Hessian: damping is then relative, and no exact pivot is less than 1.
        self._scale = np.sqrt(np.diagonal(hessian))
        self._weight, self._hessian = weight * self._scale, hessian
        self._width, self._steps, self._dtype = width, steps, dtype
        self.alive = np.ones(weight.shape[1] // width, dtype=bool)
        self.order: list[int] = []
        self.scores: list[float] = []

    def eliminate(self, damping: float, keep: int) -> None:
        """Remove units until so many are left.

        Args:
            damping: added to the unit diagonal of the scaled Hessian, which is then scaled to a unit diagonal again.
            keep: number of units that are left.

        Raises:
            NumericalBreakdownError: rounding errors dominate; the removals up to this point are valid.
        """
        ids = np.flatnonzero(self.alive)
        inverse, weight = self._survivors(ids, damping)
        while len(ids) > keep:
            size = len(ids) * self._width
            ids = self._block(inverse[:size, :size], weight[:, :size], ids, keep)

    def _survivors(
        self, ids: Int[np.ndarray, " units"], damping: float
    ) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "rows size"]]:
        """Inverse Hessian (lower triangle) and refitted weight of the remaining units ``ids``."""
        # Rows are one cache line longer than needed: with a power-of-two stride, all entries of a column would share few
        # cache sets.
        inverse = np.empty((len(self._hessian), len(self._hessian) + _PADDING))[:, : len(self._hessian)]
        np.divide(self._hessian, self._scale, out=inverse)
        inverse /= self._scale[:, None]
        if damping:
            np.clip(inverse, -1.0, 1.0, out=inverse)  # as in every positive semi-definite matrix with this diagonal
            inverse[np.diag_indices_from(inverse)] += damping
            inverse /= 1.0 + damping
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
        keep: int,
    ) -> Int[np.ndarray, " left"]:
        """Remove a block of units, then update both matrices for the remaining units, in place.

        After the last block the matrices are left as they are.

        Args:
            inverse: inverse Hessian of the remaining units, lower triangle.
            weight: refitted weight of the remaining units.
            ids: index of the unit at each position of both matrices.
            keep: number of units that are left in the end.

        Returns:
            ``ids`` of the units that remain after the block; they form the leading block of both matrices.
        """
        width, size, steps = self._width, len(inverse), min(self._steps, len(ids) - keep)
        saliency: Saliency = ColumnSaliency(inverse, weight) if width == 1 else BlockSaliency(inverse, weight, width)
        rows = BlockStartRows(inverse, weight, saliency.candidates(steps), width)
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
            # P[S,:] and A[S,:] after the removals of this block, which are not applied to the matrices yet.
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
        if steps == len(ids) - keep:
            return np.delete(ids, removed)
        columns = unit_columns(np.array(removed), width)
        # One solve gives u of all removals: W[:, removed] = u l[:, removed], and l[:, removed] is triangular.
        triangle = np.triu(factors[:, columns])
        directions = weight[:, columns] @ np.linalg.inv(triangle)
        add_lower_product(inverse, factors, factors, subtract=True)
        subtract_product(weight, directions, factors)
        return _compacted(inverse, weight, ids, np.array(removed), width)


def _compacted(
    inverse: Float[np.ndarray, "size size"],
    weight: Float[np.ndarray, "rows size"],
    ids: Int[np.ndarray, " units"],
    removed: Int[np.ndarray, " removed"],
    width: int,
) -> Int[np.ndarray, " left"]:
    """Move the last remaining units into the gaps of the removed units, in place, with as few copies as possible.

    Args:
        inverse: inverse Hessian, lower triangle.
        weight: refitted weight.
        ids: index of the unit at each position.
        removed: positions of the removed units.
        width: adjacent columns per unit.

    Returns:
        ``ids`` of the units that remain; they form the leading block of both matrices.
    """
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
