"""The three ways to judge embeddings, by what the data allows: search, scored pairs, agreement with the dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.tasks import Score
from secateurs.tasks._batches import Ordered
from secateurs.tasks._correlation import correlation
from secateurs.tasks._retrieval import ndcg

__all__ = ["Agreement", "Embed", "ScoredPairs", "Search"]

Embed = Callable[[Ordered], Float[Tensor, "texts features"]]
"""Unit vectors of texts, on the CPU."""

TOP = 10


@dataclass(frozen=True)
class Search:
    """Rank the documents for every query by cosine: nDCG@10."""

    documents: Ordered
    queries: Ordered
    relevance: list[dict[int, float]]
    details: dict[str, Any]

    def score(self, embed: Embed) -> Score:
        similarities = embed(self.queries) @ embed(self.documents).T
        ranked = similarities.topk(min(TOP, similarities.shape[1])).indices
        values = ndcg(ranked, self.relevance)
        return Score(f"ndcg@{TOP}", sum(values) / len(values), True, len(values), self.details)


@dataclass(frozen=True)
class ScoredPairs:
    """Cosine of two sentences against a score given by people: Spearman's rank correlation."""

    first: Ordered
    second: Ordered
    scores: list[float]

    def score(self, embed: Embed) -> Score:
        cosines = (embed(self.first) * embed(self.second)).sum(-1)
        return correlation(cosines, torch.tensor(self.scores))


@dataclass(frozen=True)
class Agreement:
    """Mean cosine to the dense model's embeddings, where nobody has judged anything."""

    texts: Ordered
    dense: Float[Tensor, "texts features"] | None = None

    def score(self, embed: Embed) -> Score:
        if self.dense is None:
            raise ValueError("cosine to the dense model: call Task.reference with the dense model first")
        cosines = (embed(self.texts) * self.dense).sum(-1)
        return Score("cosine to dense", cosines.mean().item(), True, len(cosines))
