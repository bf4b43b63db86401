"""Operations on symmetric positive definite matrices that are stored in their lower triangle only.

They run in NumPy: its BLAS uses fast kernels on every processor, while the BLAS in PyTorch's wheels falls back to its
slowest kernels on processors it does not know. A NumPy call also has a third of the overhead of a PyTorch call.
"""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "add_lower_product",
    "damped_cholesky",
    "divide_by_transpose",
    "factor_lower",
    "invert_lower",
    "mirror_lower",
    "next_damping",
    "set_symmetric_rows",
    "subtract_product",
    "symmetric_rows",
]

_LOG = logging.getLogger(__name__)
_PANEL = 128  # rows per product: the product stays in cache, and few entries above the diagonal are computed
_LEAF = 96  # up to this size LAPACK is faster than the recursion
_FIRST_DAMPING = 1e-12
_DOMINANT_DAMPING = 1.0  # from this damping on it is not rounding that makes a matrix indefinite


def add_lower_product(
    target: Float[np.ndarray, "n n"],
    left: Float[np.ndarray, "k n"],
    right: Float[np.ndarray, "k n"],
    *,
    subtract: bool = False,
) -> None:
    """Add the symmetric product ``left^T right`` to the lower triangle of ``target`` in place.

    Only the lower triangle is computed, which halves the work.

    Args:
        target: matrix to change; its upper triangle is undefined afterwards.
        left: first factor.
        right: second factor; ``left^T right`` must be symmetric.
        subtract: subtract the product instead.
    """
    size = len(target)
    scratch = np.empty(min(_PANEL, size) * size, dtype=target.dtype)
    accumulate = np.subtract if subtract else np.add
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        product = scratch[: (stop - start) * stop].reshape(stop - start, stop)
        np.matmul(left[:, start:stop].T, right[:, :stop], out=product)
        panel = target[start:stop, :stop]
        accumulate(panel, product, out=panel)


def subtract_product(
    target: Float[np.ndarray, "m n"], left: Float[np.ndarray, "m k"], right: Float[np.ndarray, "k n"]
) -> None:
    """Subtract ``left right`` from ``target`` in place, without a temporary matrix of the size of ``target``."""
    scratch = np.empty((min(_PANEL, len(target)), target.shape[1]), dtype=target.dtype)
    for start in range(0, len(target), _PANEL):
        panel = target[start : start + _PANEL]
        panel -= np.matmul(left[start : start + _PANEL], right, out=scratch[: len(panel)])


def mirror_lower(matrix: Float[np.ndarray, "n n"]) -> None:
    """Copy the lower triangle of ``matrix`` to its upper triangle in place."""
    size = len(matrix)
    for start in range(0, size, _LEAF):
        stop = min(start + _LEAF, size)
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        corner = matrix[start:stop, start:stop]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T


def symmetric_rows(matrix: Float[np.ndarray, "n n"], rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows n"]:
    """Full rows of a symmetric matrix that is stored in its lower triangle."""
    gathered = np.empty((len(rows), len(matrix)), dtype=matrix.dtype)
    for place, row in enumerate(rows):
        gathered[place, : row + 1] = matrix[row, : row + 1]
        gathered[place, row + 1 :] = matrix[row + 1 :, row]
    return gathered


def set_symmetric_rows(
    matrix: Float[np.ndarray, "n n"], rows: Int[np.ndarray, " rows"], values: Float[np.ndarray, "rows n"]
) -> None:
    """Write full rows, and the equal columns, of a symmetric matrix into its lower triangle."""
    for value, row in zip(values, rows, strict=True):
        matrix[row, : row + 1] = value[: row + 1]
        matrix[row + 1 :, row] = value[row + 1 :]


def invert_lower(matrix: Float[np.ndarray, "n n"]) -> None:
    """Replace the lower triangle of a positive definite ``matrix`` by the lower triangle of its inverse, in place.

    Recursion on halves with the Schur complement: with ``X = A21 A11^-1`` and ``S = A22 - X A21^T`` the inverse has the
    blocks ``A11^-1 + X^T S^-1 X``, ``-S^-1 X`` and ``S^-1``. Nearly all of the ``n^3`` multiplications happen in matrix
    products.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite to working precision.
    """
    size = len(matrix)
    if size <= _LEAF:
        inverse_factor = np.linalg.inv(np.linalg.cholesky(matrix))
        matrix[...] = inverse_factor.T @ inverse_factor
        return
    half = size // 2
    first, cross, second = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    invert_lower(first)
    mirror_lower(first)
    ratio = cross @ first
    add_lower_product(second, ratio.T, cross.T, subtract=True)
    invert_lower(second)
    mirror_lower(second)
    np.matmul(second, ratio, out=cross)
    add_lower_product(first, ratio, cross)
    np.negative(cross, out=cross)


def factor_lower(matrix: Float[np.ndarray, "n n"]) -> None:
    """Replace a positive definite ``matrix``, given by its lower triangle, by its lower Cholesky factor, in place.

    Entries above the diagonal become zero. Recursion on halves: ``L21 = A21 L11^-T``, then
    ``L22 L22^T = A22 - L21 L21^T``; nearly all of the work is matrix products.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite to working precision.
    """
    size = len(matrix)
    if size <= _LEAF:
        matrix[...] = np.linalg.cholesky(matrix)
        return
    half = size // 2
    first, cross, second = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    factor_lower(first)
    divide_by_transpose(cross, first)
    add_lower_product(second, cross.T, cross.T, subtract=True)
    factor_lower(second)
    matrix[:half, half:] = 0.0


def divide_by_transpose(target: Float[np.ndarray, "m n"], factor: Float[np.ndarray, "n n"]) -> None:
    """Replace ``target`` by ``target factor^-T`` in place, for a lower triangular ``factor``."""
    size = len(factor)
    if size <= _LEAF:
        target[...] = target @ np.linalg.inv(factor).T
        return
    half = size // 2
    divide_by_transpose(target[:, :half], factor[:half, :half])
    subtract_product(target[:, half:], target[:, :half], factor[half:, :half].T)
    divide_by_transpose(target[:, half:], factor[half:, half:])


def damped_cholesky(
    matrix: Float[np.ndarray, "n n"], places: Int[np.ndarray, " places"]
) -> Float[np.ndarray, "places places"]:
    """Lower Cholesky factor of the submatrix of the given rows and columns, in the given order.

    If the submatrix is not positive definite, its diagonal is multiplied by ``1 + damping`` with damping 1e-12, 1e-11, ...
    until the factorisation succeeds. An entry that is not positive counts as the mean of the positive entries, or as 1. If
    damping 1 is not enough, each diagonal entry is raised to twice the sum of the magnitudes in its row, which makes the
    matrix positive definite; so the search ends on every finite matrix.

    Args:
        matrix: symmetric matrix, both triangles filled.
        places: row (= column) indices of the submatrix.

    Raises:
        numpy.linalg.LinAlgError: a sum of magnitudes overflows.
    """
    damping = 0.0
    factor = np.empty((len(places), len(places)))
    while True:
        for row, place in zip(factor, places, strict=True):
            np.take(matrix[place], places, out=row, mode="clip")  # faster than indexing both axes at once
        if damping:
            _raise_diagonal(factor, damping)
        try:
            factor_lower(factor)
        except np.linalg.LinAlgError:
            if damping > _DOMINANT_DAMPING:
                raise
            damping = next_damping(damping)
            _LOG.debug("factorisation of size %d repeated with damping %g", len(factor), damping)
        else:
            return factor


def _raise_diagonal(matrix: Float[np.ndarray, "n n"], damping: float) -> None:
    """Raise the diagonal in place: by ``damping`` relative to each entry, or above 1 until it dominates the rows."""
    diagonal = matrix[np.diag_indices_from(matrix)]
    positive = diagonal > 0
    mean = diagonal[positive].mean() if positive.any() else 1.0
    if damping <= _DOMINANT_DAMPING:
        raised = np.where(positive, diagonal * (1.0 + damping), np.maximum(diagonal, 0.0) + damping * mean)
    else:
        sums = 2.0 * np.abs(matrix).sum(1)
        raised = np.where(sums > 0, sums, mean)
    matrix[np.diag_indices_from(matrix)] = raised


def next_damping(damping: float) -> float:
    """The damping to try after ``damping`` was too small: 1e-12 after 0, then ten times the last value."""
    return max(_FIRST_DAMPING, 10.0 * damping)
