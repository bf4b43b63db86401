"""Symmetric positive definite matrices of which only the lower triangle is meaningful.

The dense work runs in NumPy: its BLAS takes the fast kernels on every processor, where the one inside PyTorch's wheels
falls back to its slowest kernels on processors it does not know, and its calls cost a third as much.
"""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "add_lower_product",
    "damped_cholesky",
    "invert_lower",
    "mirror_lower",
    "next_damping",
    "subtract_product",
    "symmetric_rows",
]

_LOG = logging.getLogger(__name__)
_PANEL = 128  # rows updated at once: the product of a panel stays in cache, the waste above the diagonal stays small
_LEAF = 96  # below this size LAPACK beats the recursion
_FIRST_DAMPING = 1e-12


def add_lower_product(
    target: Float[np.ndarray, "n n"],
    left: Float[np.ndarray, "k n"],
    right: Float[np.ndarray, "k n"],
    *,
    subtract: bool = False,
) -> None:
    """Add ``left^T right``, a symmetric product, to the lower triangle of ``target`` in place, at half the work.

    Args:
        target: the matrix that changes; its upper triangle is left undefined.
        left: the first factor.
        right: the second factor.
        subtract: take the product away instead.
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
    """Take ``left right`` away from ``target`` in place, without a second matrix of its size."""
    scratch = np.empty((min(_PANEL, len(target)), target.shape[1]), dtype=target.dtype)
    for start in range(0, len(target), _PANEL):
        panel = target[start : start + _PANEL]
        panel -= np.matmul(left[start : start + _PANEL], right, out=scratch[: len(panel)])


def mirror_lower(matrix: Float[np.ndarray, "n n"]) -> None:
    """Copy the lower triangle of ``matrix`` onto its upper triangle in place."""
    size = len(matrix)
    for start in range(0, size, _LEAF):
        stop = min(start + _LEAF, size)
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        corner = matrix[start:stop, start:stop]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T


def symmetric_rows(matrix: Float[np.ndarray, "n n"], rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows n"]:
    """Whole rows of a symmetric matrix of which only the lower triangle is meaningful."""
    gathered = matrix[rows]
    right_of = np.arange(len(matrix)) > rows[:, None]
    np.copyto(gathered, matrix[:, rows].T, where=right_of)
    return gathered


def invert_lower(matrix: Float[np.ndarray, "n n"]) -> None:
    """Replace the lower triangle of a positive definite ``matrix`` by that of its inverse.

    Halving with Schur complements: with ``X = A21 A11^-1`` and ``S = A22 - X A21^T`` the inverse has the blocks
    ``A11^-1 + X^T S^-1 X``, ``-S^-1 X`` and ``S^-1``. Nearly all of the ``n^3`` products are matrix products.

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


def damped_cholesky(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Lower Cholesky factor of ``matrix``, its diagonal raised by as little as makes it positive definite.

    The diagonal is multiplied by ``1 + damping``, with damping 0, then 1e-12, 1e-11, ... until there is a factor.
    """
    damping = 0.0
    while True:
        try:
            return np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            raised = next_damping(damping)
            _LOG.debug(
                "matrix of size %d is not positive definite at damping %g; trying %g", len(matrix), damping, raised
            )
            matrix = matrix.copy() if damping == 0.0 else matrix
            np.fill_diagonal(matrix, np.diagonal(matrix) * ((1.0 + raised) / (1.0 + damping)))
            damping = raised


def next_damping(damping: float) -> float:
    """The damping to try after ``damping`` was too small: 1e-12, then ten times more at each call."""
    return max(_FIRST_DAMPING, 10.0 * damping)
