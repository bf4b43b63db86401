"""Weights and errors of all levels of one output projection from a single Cholesky factor.

Let ``q`` be the columns in reverse order of removal, the column removed last first, with ``C C^T = H[q,q]`` and
``Y = C^T W[:,q]^T``. The least-squares weights on the first ``k`` columns solve ``C[:k,:k]^T W_k^T = Y[:k]``, and their
squared error under ``H`` is the sum of ``||Y[r]||^2`` over ``r >= k``. Any order of removal can be used, and the rounding
errors of the elimination that computed the order do not affect the weights.

The weights are those of a damped Hessian; their output error is a matter of the undamped Gram matrix ``G``. With the change
``W - W_k = sum over r >= k of Y[r]^T (C^-1)[r]``, the error ``tr((W - W_k) G (W - W_k)^T)`` of level ``k`` is the sum over
``r, s >= k`` of ``(Y Y^T)[r,s] (C^-1 G C^-T)[r,s]``: two triangular solves serve all levels.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from secateurs.numerics.spd import damped_cholesky, divide_by_transpose
from secateurs.numerics.unit_columns import projection_arrays, unit_columns

__all__ = ["LevelFactor"]

_PANEL = 256  # rows of Y per product; the zeros of the triangular C outside a panel are not multiplied


class LevelFactor:
    """The levels of one output projection: level ``k`` keeps the last ``k`` units of the order, with weights refitted.

    Attributes:
        errors: squared output error under the given Hessian; ``errors[k]`` is the error of level ``k``.
        units: number of units.
    """

    def __init__(
        self,
        weight: Float[Tensor, "rows cols"],
        hessian: Float[Tensor, "cols cols"],
        order: Int64[Tensor, " units"],
        *,
        width: int = 1,
        dead: Bool[Tensor, " cols"] | None = None,
    ) -> None:
        """Factorise the Hessian once, in float64.

        Args:
            weight: weight of the output projection, outputs by inputs.
            hessian: second moments of its inputs.
            order: unit indices in order of removal.
            width: adjacent columns per unit.
            dead: mask of the dead inputs (``Moments.dead``), which get zero weight; inputs with zero on the Hessian's
                diagonal are dead in any case.

        Raises:
            ValueError: the shapes do not fit, ``order`` is not a permutation of the units, or a number is not finite.
        """
        full_weight, full_hessian, none = projection_arrays(weight, hessian, width, dead)
        self.units = full_weight.shape[1] // width
        self._width = width
        self._order = order.detach().cpu()
        if not torch.equal(self._order.sort().values, torch.arange(self.units)):
            raise ValueError(f"the order must be a permutation of {self.units} units")
        columns = unit_columns(self._order.flip(0).numpy(), width)
        self._columns, self._dead = columns, none
        factor = damped_cholesky(full_hessian, columns)
        reduced = _transposed_lower_product(factor, full_weight[:, columns].T)
        self.errors: Float64[Tensor, " levels"] = self._tails(np.einsum("ij,ij->i", reduced, reduced))
        self._dense: Float64[Tensor, "rows cols"] = torch.from_numpy(full_weight)
        self._factor: Float64[Tensor, "cols cols"] = torch.from_numpy(factor)
        self._reduced: Float64[Tensor, "cols rows"] = torch.from_numpy(reduced)

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return self._dense.nbytes + self._factor.nbytes + self._reduced.nbytes

    def errors_under(self, gram: Float[Tensor, "cols cols"]) -> Float64[Tensor, " levels"]:
        """Squared output error of the weight of every level, measured by another matrix than the Hessian of the fit.

        Args:
            gram: undamped second moments of the inputs, plain or centred.

        Returns:
            ``tr((W - W_k) gram (W - W_k)^T)`` of every level ``k``, at least 0, where a dead input has no effect.
        """
        full = gram.detach().to("cpu", torch.float64).numpy()
        full = np.where(self._dead | self._dead[:, None], 0.0, full)[np.ix_(self._columns, self._columns)]
        factor, reduced = self._factor.numpy(), self._reduced.numpy()
        divide_by_transpose(full, factor)  # G C^-T
        solved = np.ascontiguousarray(full.T)
        divide_by_transpose(solved, factor)  # (C^-1 G) C^-T
        energies = np.empty(len(solved))
        for start in range(0, len(solved), _PANEL):
            stop = start + _PANEL
            products = np.triu((reduced[start:stop] @ reduced[start:].T) * solved[start:stop, start:])
            energies[start:stop] = 2.0 * products.sum(1) - products.diagonal()
        return self._tails(energies).clamp_min(0.0)

    def _tails(self, energies: Float[np.ndarray, " cols"]) -> Float64[Tensor, " levels"]:
        """Sums of the energies of all columns that a level does not keep."""
        units = energies.reshape(self.units, self._width).sum(1)
        return torch.from_numpy(np.append(np.cumsum(units[::-1])[::-1], 0.0))

    def whitening(
        self,
    ) -> tuple[Int64[Tensor, " cols"], Float64[Tensor, "cols cols"], Float64[Tensor, "cols rows"]]:
        """``q``, the lower triangular ``C^-1``, and ``Y``. In a row and column of ``C^-1`` of a dead input stand zeros.

        ``(W - W_k) x`` is the sum over rows ``r >= k`` of ``Y[r]^T (C^-1 x[q])[r]``.
        """
        inverse = torch.linalg.solve_triangular(
            self._factor, torch.eye(len(self._factor), dtype=torch.float64), upper=False
        )
        inverse[:, torch.from_numpy(self._dead[self._columns])] = 0.0
        return torch.from_numpy(self._columns), inverse, self._reduced

    def kept(self, level: int) -> Int64[Tensor, " kept"]:
        """The kept units of a level, in ascending order.

        Args:
            level: number of kept units.

        Raises:
            ValueError: ``level`` is negative or larger than the number of units.
        """
        if not 0 <= level <= self.units:
            raise ValueError(f"level {level} does not exist: between 0 and {self.units} units can be kept")
        return self._order[self.units - level :].sort().values

    def weight(self, level: int) -> Float64[Tensor, "rows kept_columns"]:
        """The least-squares weight of a level, with the columns of its units in ascending order.

        Args:
            level: number of kept units.

        Raises:
            ValueError: ``level`` is negative or larger than the number of units.
        """
        places = self._order.flip(0)[: len(self.kept(level))].argsort()
        if level in (0, self.units):
            return self._dense[:, : level * self._width].clone()
        size = level * self._width
        last_removed_first = torch.linalg.solve_triangular(
            self._factor[:size, :size].T, self._reduced[:size], upper=True
        )
        return last_removed_first[torch.from_numpy(unit_columns(places.numpy(), self._width))].T.contiguous()


def _transposed_lower_product(
    lower: Float[np.ndarray, "n n"], right: Float[np.ndarray, "n m"]
) -> Float[np.ndarray, "n m"]:
    """``lower^T right`` for a lower triangular matrix, in panels that skip most of the zeros."""
    product = np.empty(right.shape)
    for start in range(0, len(lower), _PANEL):
        stop = start + _PANEL
        np.matmul(lower[start:, start:stop].T, right[start:], out=product[start:stop])
    return product
