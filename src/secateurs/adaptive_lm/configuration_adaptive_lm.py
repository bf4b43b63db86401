"""What an adaptive language model is built from. Travels beside the weights: needs transformers alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.llama.configuration_llama import LlamaConfig

__all__ = ["AdaptiveLMConfig"]


@strict
class AdaptiveLMConfig(LlamaConfig):
    """A Llama body between adaptive embeddings and an adaptive softmax.

    The vocabulary is sorted by falling frequency and divided at ``cutoffs``: cluster 0 has the ids below the first of
    them, the last cluster those from the last of them on. ``tie_word_embeddings`` says whether the softmax scores words
    by the tables and projections of the embeddings (the default) or by its own.

    Args:
        cutoffs: ids at which the second, third, ... cluster begins, ascending; empty = one cluster, a plain softmax.
        embedding_size: width of cluster 0; the hidden size if not given.
        embedding_divisor: cluster ``i`` has ``floor(embedding_size / embedding_divisor ** i)`` dimensions.
        embedding_sizes: the widths one by one, in place of the two fields above; 0 leaves a cluster its biases alone.
        embedding_dropout: between table and projection.

    Raises:
        ValueError: cut-offs or widths that are not of this vocabulary.
    """

    model_type = "secateurs-adaptive-lm"

    vocab_size: int = 32000
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True
    cutoffs: list[int] | None = None
    embedding_size: int | None = None
    embedding_divisor: int | float = 4
    embedding_sizes: list[int] | None = None
    embedding_dropout: int | float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.cutoffs = [int(cutoff) for cutoff in self.cutoffs or ()]
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.embedding_sizes is None:
            widths = (self.embedding_size / self.embedding_divisor**index for index in range(len(self.cutoffs) + 1))
            self.embedding_sizes = [max(1, int(width)) for width in widths]
        super().__post_init__(**kwargs)

    def validate_clusters(self) -> None:
        """Raises:
        ValueError: see the class.
        """
        edges = self.cluster_edges
        if any(after <= before for before, after in pairwise(edges)):
            raise ValueError(
                f"cutoffs {self.cutoffs} must ascend between 0 and the vocabulary size {self.vocab_size}, both excluded"
            )
        widths = self.embedding_sizes or []
        if len(widths) != len(edges) - 1 or min(widths) < 0:
            raise ValueError(
                f"embedding_sizes {widths} must be {len(edges) - 1} widths of at least 0, one for each cluster between "
                f"the cutoffs {self.cutoffs}"
            )

    @property
    def cluster_edges(self) -> list[int]:
        """Where the clusters begin, and where the last one ends."""
        return [0, *(self.cutoffs or ()), self.vocab_size]
