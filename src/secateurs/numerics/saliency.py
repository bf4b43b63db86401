"""Saliency of every remaining unit (its score), updated after each removal.

The score of unit ``S`` is ``tr(P_SS^-1 A_SS)``: the increase of the squared output error if ``S`` is removed and the other
weights are refitted. ``P`` is the inverse Hessian of the remaining units, ``A = W^T W`` the Gram matrix of the current
weight. A removal changes them to ``P - l^T l`` and ``A - z^T l - l^T z`` with ``C C^T = P_SS``, ``l = C^-1 P[S,:]``,
``z = C^-1 A[S,:] - C^-1 A_SS C^-T l / 2``. Only the diagonal blocks of ``P`` and ``A`` are stored.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

__all__ = ["BlockSaliency", "ColumnSaliency", "NumericalBreakdownError", "Saliency"]

# If the Hessian has a unit diagonal, every diagonal entry of the inverse of a principal submatrix is at least 1, up to
# rounding. A value below this limit shows that rounding errors dominate.
_LOWEST_PIVOT = 0.5


class NumericalBreakdownError(ArithmeticError):
    """Rounding errors dominate the inverse Hessian; it must be recomputed with more damping."""


class Saliency(Protocol):
    """Scores of the remaining units. One removal calls ``pick``, ``split`` and ``remove``, in this order."""

    def candidates(self, count: int) -> Int[np.ndarray, " candidates"]:
        """Positions of the ``count`` units with the smallest scores, in any order."""
        ...

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """Choose the unit with the smallest score; of equal scores, the unit with the smallest id.

        Args:
            ids: unit index of each position.

        Returns:
            Position and score, at least 0.

        Raises:
            NumericalBreakdownError: rounding errors dominate.
        """
        ...

    def split(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """Replace ``P[S,:]`` by ``l`` and ``A[S,:]`` by ``z``, in place.

        Args:
            position: position of unit ``S``.
            inverse_rows: ``P[S,:]``.
            gram_rows: ``A[S,:]``.

        Raises:
            NumericalBreakdownError: ``P_SS`` is not positive definite.
        """
        ...

    def remove(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """Update the diagonal blocks of ``P`` and ``A`` for the removal of unit ``S``.

        Args:
            position: position of unit ``S``.
            inverse_rows: ``l``.
            gram_rows: ``z``.
        """
        ...


class ColumnSaliency:
    """Scores of units of one column: ``score_j = A_jj / P_jj``.

    Args:
        inverse: inverse Hessian ``P``; only its diagonal is used.
        weight: current weight ``W``.

    Raises:
        NumericalBreakdownError: a diagonal entry of ``inverse`` is below the limit.
    """

    def __init__(
        self, inverse: Float[np.ndarray, "columns columns"], weight: Float[np.ndarray, "rows columns"]
    ) -> None:
        self._inverse = np.diagonal(inverse).copy()
        self._gram = np.einsum("ij,ij->j", weight, weight)
        self._scores = np.empty_like(self._gram)
        self._scratch = np.empty_like(self._gram)
        if not self._inverse.min() >= _LOWEST_PIVOT:
            raise NumericalBreakdownError

    def candidates(self, count: int) -> Int[np.ndarray, " candidates"]:
        """See ``Saliency.candidates``."""
        return np.argpartition(self._gram / self._inverse, count - 1)[:count]

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """See ``Saliency.pick``."""
        scores = np.divide(self._gram, self._inverse, out=self._scores)
        position = _first_minimum(scores, ids)
        score = float(scores[position])
        if not (self._inverse[position] >= _LOWEST_PIVOT and np.isfinite(score)):
            raise NumericalBreakdownError
        return position, max(score, 0.0)

    def split(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """See ``Saliency.split``."""
        scale = float(self._inverse[position]) ** -0.5
        inverse_rows *= scale
        gram_rows *= scale
        half = np.multiply(inverse_rows[0], 0.5 * float(self._scores[position]), out=self._scratch)
        gram_rows -= half

    def remove(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """See ``Saliency.remove``."""
        change = self._scratch
        np.multiply(inverse_rows[0], inverse_rows[0], out=change)
        self._inverse -= change
        np.multiply(inverse_rows[0], gram_rows[0], out=change)
        change *= 2.0
        self._gram -= change
        self._gram[position] = np.inf  # so that it is never picked again
        self._inverse[position] = 1.0


class BlockSaliency:
    """Scores of units of any width: ``score_S = tr(P_SS^-1 A_SS)``; every step inverts all diagonal blocks.

    Args:
        inverse: inverse Hessian ``P``; only the lower triangle of its diagonal blocks is used.
        weight: current weight ``W``.
        width: adjacent columns per unit.

    Raises:
        NumericalBreakdownError: a diagonal entry of ``inverse`` is below the limit.
    """

    def __init__(
        self, inverse: Float[np.ndarray, "columns columns"], weight: Float[np.ndarray, "rows columns"], width: int
    ) -> None:
        units = len(inverse) // width
        every = np.arange(units)
        lower = inverse.reshape(units, width, units, width)[every, :, every, :]
        self._inverse = np.tril(lower) + np.swapaxes(np.tril(lower, -1), 1, 2)
        columns = weight.reshape(len(weight), units, width).transpose(1, 2, 0)
        self._gram = columns @ np.swapaxes(columns, 1, 2)
        self._alive = np.ones(units, dtype=bool)
        self._width = width
        self._check()

    def candidates(self, count: int) -> Int[np.ndarray, " candidates"]:
        """See ``Saliency.candidates``."""
        return np.argpartition(self._score(), count - 1)[:count]

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """See ``Saliency.pick``."""
        self._check()
        scores = self._score()
        position = _first_minimum(scores, ids)
        score = float(scores[position])
        if not np.isfinite(score):
            raise NumericalBreakdownError
        return position, max(score, 0.0)

    def split(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """See ``Saliency.split``."""
        try:
            inverse_factor = np.linalg.inv(np.linalg.cholesky(self._inverse[position]))
        except np.linalg.LinAlgError as error:
            raise NumericalBreakdownError from error
        core = inverse_factor @ self._gram[position] @ inverse_factor.T
        inverse_rows[...] = inverse_factor @ inverse_rows
        gram_rows[...] = inverse_factor @ gram_rows - 0.5 * core @ inverse_rows

    def remove(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """See ``Saliency.remove``."""
        shape = (self._width, len(self._alive), self._width)
        factors = inverse_rows.reshape(shape).transpose(1, 2, 0)
        others = gram_rows.reshape(shape).transpose(1, 2, 0)
        self._inverse -= factors @ np.swapaxes(factors, 1, 2)
        change = others @ np.swapaxes(factors, 1, 2)
        self._gram -= change + np.swapaxes(change, 1, 2)
        self._alive[position] = False
        self._inverse[position] = np.eye(self._width)

    def _score(self) -> Float[np.ndarray, " units"]:
        try:
            scores = np.einsum("uij,uji->u", np.linalg.inv(self._inverse), self._gram)
        except np.linalg.LinAlgError as error:
            raise NumericalBreakdownError from error
        return np.where(self._alive, scores, np.inf)

    def _check(self) -> None:
        if not np.diagonal(self._inverse, axis1=1, axis2=2).min() >= _LOWEST_PIVOT:
            raise NumericalBreakdownError


def _first_minimum(scores: Float[np.ndarray, " units"], ids: Int[np.ndarray, " units"]) -> int:
    """Position of the smallest score; of equal scores, the position with the smallest id."""
    position = int(scores.argmin())
    ties = scores == scores[position]
    return int(np.where(ties, ids, ids.max() + 1).argmin()) if np.count_nonzero(ties) > 1 else position
