"""The three metrics of embeddings: search, scored pairs, and cosine to the embeddings of the dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.tasks.base import Score
from secateurs.tasks.data.batches import Ordered
from secateurs.tasks.metrics.correlation import correlation
from secateurs.tasks.metrics.ndcg import ndcg

__all__ = ["CosineToDense", "Embed", "ScoredPairs", "Search"]

Embed = Callable[[Ordered], Float[Tensor, "texts features"]]
"""Function that returns the embeddings of texts as unit vectors on the CPU."""

TOP = 10
"""Number of retrieved documents per query."""


@dataclass(frozen=True)
class Search:
    """nDCG@10 of the documents, ranked by their cosine to every query.

    Args:
        documents: documents to search.
        queries: queries to evaluate.
        relevance: for every query, the gains of its relevant documents by document index.
        details: details of the score.
    """

    documents: Ordered
    queries: Ordered
    relevance: list[dict[int, float]]
    details: dict[str, Any]

    def score(self, embed: Embed) -> Score:
        """nDCG@10, averaged over the queries."""
        similarities = embed(self.queries) @ embed(self.documents).T
        ranked = similarities.topk(min(TOP, similarities.shape[1])).indices
        values = ndcg(ranked, self.relevance)
        return Score(f"ndcg@{TOP}", sum(values) / len(values), True, len(values), self.details)


@dataclass(frozen=True)
class ScoredPairs:
    """Spearman's rank correlation between the cosine of two texts and a score by people.

    Args:
        first: first text of every pair.
        second: second text of every pair.
        scores: similarity of every pair according to the data, on any scale.
    """

    first: Ordered
    second: Ordered
    scores: list[float]

    def score(self, embed: Embed) -> Score:
        """Spearman's rank correlation."""
        cosines = (embed(self.first) * embed(self.second)).sum(-1)
        return correlation(cosines, torch.tensor(self.scores))


@dataclass(frozen=True)
class CosineToDense:
    """Mean cosine to the embeddings of the dense model, for data without relevance judgements or scores.

    Args:
        texts: held-out texts.
        dense: embeddings of the texts by the dense model; ``None`` until ``Task.reference`` has computed them.
    """

    texts: Ordered
    dense: Float[Tensor, "texts features"] | None = None

    def score(self, embed: Embed) -> Score:
        """Mean cosine.

        Raises:
            ValueError: the embeddings of the dense model are missing.
        """
        if self.dense is None:
            raise ValueError("the embeddings of the dense model are missing; call Task.reference with it first")
        cosines = (embed(self.texts) * self.dense).sum(-1)
        return Score("cosine to dense", cosines.mean().item(), True, len(cosines))
