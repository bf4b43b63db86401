"""Optimal low-rank factors of a matrix, for arbitrary inputs or for inputs with given second moments.

The singular value decomposition ``W = U S V^T``, truncated to ``k`` components, gives the matrix of rank ``k`` nearest to
``W`` (Eckart and Young). For the nearest *output* on inputs ``X`` with second moments ``G = X X^T``, take a root
``G = R R^T``. Because

    ||(W - P Q) X||^2 = ||(W - P Q) R||^2,

the truncated decomposition of ``W R``, with its right factor multiplied by ``R^-1``, is optimal for those inputs. Components
are ordered by their contribution to the output. At full rank the product is ``W`` in both cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.numerics.hessian import Moments

__all__ = ["Decomposition", "break_even", "factors"]


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


@dataclass(frozen=True)
class Decomposition:
    """The approximations of a linear map at every rank with the nearest outputs, from one decomposition.

    Attributes:
        weight: the matrix ``W``.
        bias: its bias ``b``; ``None`` = no bias.
        mean: mean of the inputs.
        first: ``Q`` at full rank.
        second: ``P`` at full rank.
        errors: relative squared output error at every rank, from 0 to the full one.
    """

    weight: Float[Tensor, "rows columns"]
    bias: Float[Tensor, " rows"] | None
    mean: Float[Tensor, " columns"]
    first: Float[Tensor, "ranks columns"]
    second: Float[Tensor, "rows ranks"]
    errors: Float[Tensor, " ranks+1"]

    @classmethod
    def of(
        cls, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, moments: Moments
    ) -> Decomposition:
        """Decompose a matrix in the metric of its inputs, which is centred where there is a bias.

        Args:
            weight: the matrix ``W``.
            bias: its bias ``b``; ``None`` = no bias.
            moments: second moments of the inputs.
        """
        gram = (moments.gram if bias is None else moments.centred()).cpu() / moments.count
        first, second = factors(weight.cpu(), gram=gram)
        # The outputs of components are orthogonal: their energies add up.
        energy = second.square().sum(0) * ((first @ gram) * first).sum(1)
        left = energy.flip(0).cumsum(0).flip(0)
        errors = torch.cat([left, left.new_zeros(1)]) / left[0].clamp_min(torch.finfo(left.dtype).tiny)
        return cls(weight, bias, (moments.total / moments.count).cpu(), first, second, errors)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return self.first.nbytes + self.second.nbytes

    def at(self, rank: int) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"] | None]:
        """``W' = P Q`` of this rank, multiplied out, and ``b' = b + (W - W') mean``.

        The bias takes over the mean contribution of the removed components, as in levels. Dtypes and devices are those of
        ``W`` and ``b``.
        """
        product = self.second[:, :rank] @ self.first[:rank]
        if self.bias is None:
            return product.to(self.weight), None
        removed = (self.weight.cpu().double() - product) @ self.mean
        return product.to(self.weight), self.bias + removed.to(self.bias)
