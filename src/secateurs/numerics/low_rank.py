"""A matrix as a product of two: the best of every rank at once, for any input or for the inputs that were seen.

The singular value decomposition ``W = U S V^T`` gives, cut off after ``k`` components, the matrix of rank ``k`` nearest to
``W`` (Eckart and Young). What should be near is the *output*: with the second moments ``G = X X^T`` of the inputs and a
root ``G = R R^T``,

    ||(W - P Q) X||^2 = ||(W - P Q) R||^2,

so the decomposition of ``W R``, with ``R`` taken out of the right factor again, is best for those inputs. Components come in
order of what they carry, and at full rank the product is ``W`` either way.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.numerics.hessian import Moments

__all__ = ["break_even", "factors", "lowered"]


def break_even(inputs: int, outputs: int) -> int:
    """The highest rank at which two factors have no more entries than the matrix: ``r (m + n) <= m n``.

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
    """The two factors, in float64, of balanced size: ``S^(1/2) V^T`` and ``U S^(1/2)`` (Wang et al. 2020).

    Args:
        weight: the matrix.
        rank: components to keep, the strongest; all ``min(outputs, inputs)`` of them if ``None``.
        gram: second moments of the inputs; every direction counts alike if ``None``.
        damping: relative to their mean, what every direction counts even if it was not seen.

    Raises:
        ValueError: the rank is not between 0 and that of the matrix.
    """
    full = min(weight.shape)
    rank = full if rank is None else rank
    if not 0 <= rank <= full:
        raise ValueError(f"a rank of {rank} does not fit a matrix of {tuple(weight.shape)}: it has at most {full}")
    matrix = weight.detach().double()
    if gram is None:
        left, strengths, right = torch.linalg.svd(matrix, full_matrices=False)
        root = strengths[:rank].sqrt()
        return root[:, None] * right[:rank], left[:, :rank] * root
    values, vectors = torch.linalg.eigh(gram.to(matrix))
    scale = (values.clamp(min=0) + damping * values.mean() + torch.finfo(torch.float64).tiny).sqrt()
    left, strengths, right = torch.linalg.svd(matrix @ (vectors * scale), full_matrices=False)
    first = (right[:rank] / scale) @ vectors.T  # what it takes the root out with
    second = left[:, :rank] * strengths[:rank]
    # Equal norms, as without moments: neither factor should learn faster than the other.
    balance = (second.norm(dim=0) / first.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    balance = torch.where(balance > 0, balance, torch.ones_like(balance))
    return first * balance[:, None], second / balance


def lowered(
    weight: Float[Tensor, "rows columns"],
    bias: Float[Tensor, " rows"] | None,
    moments: Moments,
    rank: int,
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
    """The matrix of a rank nearest to another on inputs with these moments, multiplied out, and the bias that goes with it.

    ``b' = b + (W - W') mean`` takes up what the components that are gone contributed on average, as for levels.
    """
    gram = moments.gram if bias is None else moments.centred()
    first, second = (part.cpu() for part in factors(weight.cpu(), rank, gram=gram.cpu() / moments.count))
    product = second @ first
    if bias is None:
        return product.to(weight), None
    gone = (weight.cpu().double() - product) @ (moments.total / moments.count).cpu()
    return product.to(weight), bias + gone.to(bias)
