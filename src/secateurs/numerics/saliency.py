"""What each unit would cost to remove now, kept up to date while other units go.

For unit ``S`` the score is ``tr(P_SS^-1 A_SS)``: ``P`` is the inverse Hessian of the survivors, ``A = W^T W`` the Gram
matrix of the current weight. Removing a unit changes them to ``P - l^T l`` and ``A - z^T l - l^T z`` with
``C C^T = P_SS``, ``l = C^-1 P[S,:]``, ``z = C^-1 A[S,:] - C^-1 A_SS C^-T l / 2``. Only their diagonal blocks are kept.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

__all__ = ["BlockSaliency", "ColumnSaliency", "NumericalBreakdownError", "Saliency"]

# With a unit diagonal in the Hessian, every diagonal entry of the inverse of a principal submatrix is at least 1.
_LOWEST_PIVOT = 0.5


class NumericalBreakdownError(ArithmeticError):
    """Rounding has made the inverse Hessian useless: it must be rebuilt, with more damping."""


class Saliency(Protocol):
    """The scores of the units that are left; a step is ``pick``, ``split``, ``remove``."""

    def candidates(self, count: int) -> Int[np.ndarray, " candidates"]:
        """Positions of the ``count`` cheapest units."""
        ...

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """Position and score of the cheapest unit; among equals, the one of lowest id."""
        ...

    def split(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """Turn ``P[S,:]`` into ``l`` and ``A[S,:]`` into ``z``, in place."""
        ...

    def remove(
        self,
        position: int,
        inverse_rows: Float[np.ndarray, "width columns"],
        gram_rows: Float[np.ndarray, "width columns"],
    ) -> None:
        """Account for the removal described by ``l`` and ``z``."""
        ...


class ColumnSaliency:
    """Units one column wide: ``score_j = A_jj / P_jj``."""

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
        """Positions of the ``count`` cheapest units."""
        return np.argpartition(self._gram / self._inverse, count - 1)[:count]

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """Position and score of the cheapest unit; among equals, the one of lowest id."""
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
        """Turn ``P[S,:]`` into ``l`` and ``A[S,:]`` into ``z``, in place."""
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
        """Account for the removal described by ``l`` and ``z``."""
        change = self._scratch
        np.multiply(inverse_rows[0], inverse_rows[0], out=change)
        self._inverse -= change
        np.multiply(inverse_rows[0], gram_rows[0], out=change)
        change *= 2.0
        self._gram -= change
        self._gram[position] = np.inf  # never picked again
        self._inverse[position] = 1.0


class BlockSaliency:
    """Units of any width: ``score_S = tr(P_SS^-1 A_SS)``, all diagonal blocks inverted anew at each step."""

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
        """Positions of the ``count`` cheapest units."""
        return np.argpartition(self._score(), count - 1)[:count]

    def pick(self, ids: Int[np.ndarray, " units"]) -> tuple[int, float]:
        """Position and score of the cheapest unit; among equals, the one of lowest id."""
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
        """Turn ``P[S,:]`` into ``l`` and ``A[S,:]`` into ``z``, in place."""
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
        """Account for the removal described by ``l`` and ``z``."""
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
    """Position of the smallest score; among equal scores, the one of the lowest id."""
    position = int(scores.argmin())
    ties = scores == scores[position]
    return int(np.where(ties, ids, ids.max() + 1).argmin()) if np.count_nonzero(ties) > 1 else position
