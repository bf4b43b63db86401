"""Normalised discounted cumulative gain (nDCG) of ranked documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["ndcg"]


def ndcg(ranked: Int[Tensor, "queries k"], relevance: Sequence[dict[int, float]]) -> list[float]:
    """Normalised discounted cumulative gain of the first ``k`` documents, with linear gains.

    ``DCG = sum_i gain_i / log2(i + 1)`` over the ranks ``i = 1..k``, divided by the DCG of the best order (Jarvelin and
    Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002, with the discount that trec_eval uses).

    Args:
        ranked: indices of the documents, best first.
        relevance: for every query, the gains of its relevant documents by document index; at least one document.

    Returns:
        One value per query, between 0 and 1.
    """
    k = ranked.shape[1]
    discounts = (1 / torch.log2(torch.arange(k, dtype=torch.float64) + 2)).tolist()
    values: list[float] = []
    for documents, gains in zip(ranked.tolist(), relevance, strict=True):
        best = sorted(gains.values(), reverse=True)[:k]
        ideal = sum(gain * discount for gain, discount in zip(best, discounts, strict=False))
        values.append(
            sum(gains.get(d, 0.0) * discount for d, discount in zip(documents, discounts, strict=True)) / ideal
        )
    return values
