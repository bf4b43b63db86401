"""Optimal low-rank factors of a matrix, for arbitrary inputs or for inputs with given second moments.

The singular value decomposition ``W = U S V^T``, truncated to ``k`` components, gives the matrix of rank ``k`` nearest to
``W`` (Eckart and Young). For the nearest *output* on inputs ``X`` with second moments ``G = X X^T``, take a root
``G = R R^T``. Because

    ||(W - P Q) X||^2 = ||(W - P Q) R||^2,

the truncated decomposition of ``W R``, with its right factor multiplied by ``R^-1``, is optimal for those inputs. Components
are ordered by their contribution to the output. At full rank the product is ``W`` in both cases.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.numerics.hessian import Moments

__all__ = ["break_even", "factors", "low_rank_approximation"]


def break_even(inputs: int, outputs: int) -> int:
    """The highest rank ``r`` at which two factors have no more entries than the matrix: ``r (m + n) <= m n``.

    Args:
        inputs: number of columns ``n`` of the matrix.
        outputs: number of rows ``m`` of the matrix.

    >>> break_even(768, 768), break_even(768, 3072), break_even(10, 20)
    (384, 614, 6)
    """
    return inputs * outputs // (inputs + outputs)


def factors(
    weight: Float[Tensor, "outputs inputs"],
    rank: int | None = None,
    *,
    gram: Float[Tensor, "inputs inputs"] | None = None,
    damping: float = 1e-3,
) -> tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]:
    """Factors ``Q = S^(1/2) V^T`` and ``P = U S^(1/2)`` of the matrix ``W = P Q``, with balanced norms (Wang et al. 2020).

    Args:
        weight: the matrix ``W``.
        rank: number of components to keep, in the order of their contribution; ``None`` = full rank,
            ``min(outputs, inputs)``.
        gram: second moments of the inputs, up to a factor; ``None`` = the identity.
        damping: added to the eigenvalues of ``gram``, relative to their mean, so that directions without data count too.

    Returns:
        ``Q`` and ``P``, in float64: the input is multiplied by ``Q`` first.

    Raises:
        ValueError: ``rank`` is negative or larger than ``min(outputs, inputs)``.
    """
    full = min(weight.shape)
    rank = full if rank is None else rank
    if not 0 <= rank <= full:
        raise ValueError(
            f"a rank of {rank} does not fit a matrix of shape {tuple(weight.shape)}: its rank is at most {full}"
        )
    matrix = weight.detach().double()
    if gram is None:
        left, strengths, right = torch.linalg.svd(matrix, full_matrices=False)
        root = strengths[:rank].sqrt()
        return root[:, None] * right[:rank], left[:, :rank] * root
    values, vectors = torch.linalg.eigh(gram.to(matrix))
    scale = (values.clamp(min=0) + damping * values.mean() + torch.finfo(torch.float64).tiny).sqrt()
    left, strengths, right = torch.linalg.svd(matrix @ (vectors * scale), full_matrices=False)
    first = (right[:rank] / scale) @ vectors.T  # R^-1 = scale^-1 vectors^T
    second = left[:, :rank] * strengths[:rank]
    # Equal norms of both factors, as without moments, so that neither learns faster than the other.
    balance = (second.norm(dim=0) / first.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    balance = torch.where(balance > 0, balance, torch.ones_like(balance))
    return first * balance[:, None], second / balance


def low_rank_approximation(
    weight: Float[Tensor, "rows columns"],
    bias: Float[Tensor, " rows"] | None,
    moments: Moments,
    rank: int,
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
    """The matrix ``W' = P Q`` of a given rank with the nearest outputs to ``W``, multiplied out, and its bias.

    The bias ``b' = b + (W - W') mean`` takes over the mean contribution of the removed components, as in levels.

    Args:
        weight: the matrix ``W``.
        bias: its bias ``b``; ``None`` = no bias.
        moments: second moments of the inputs.
        rank: rank of ``W'``.

    Returns:
        ``W'`` and ``b'``, with the dtypes and devices of ``weight`` and ``bias``.
    """
    gram = moments.gram if bias is None else moments.centred()
    first, second = (part.cpu() for part in factors(weight.cpu(), rank, gram=gram.cpu() / moments.count))
    product = second @ first
    if bias is None:
        return product.to(weight), None
    removed = (weight.cpu().double() - product) @ (moments.total / moments.count).cpu()
    return product.to(weight), bias + removed.to(bias)
