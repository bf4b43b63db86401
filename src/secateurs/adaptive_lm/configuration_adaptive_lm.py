"""The config of adaptive language models. This file is saved beside the weights, so it imports only transformers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.llama.configuration_llama import LlamaConfig

__all__ = ["AdaptiveLMConfig"]


@strict
class AdaptiveLMConfig(LlamaConfig):
    """Config of a Llama body with adaptive embeddings and an adaptive softmax.

    The vocabulary is sorted by falling frequency and divided at ``cutoffs``: cluster 0 has the ids below the first cut-off,
    the last cluster has the ids from the last cut-off on. With ``tie_word_embeddings`` (the default) the softmax scores words
    with the tables and projections of the embeddings, otherwise with separate ones.

    Args:
        cutoffs: ids at which the second, third, ... cluster starts, ascending; empty = one cluster, an ordinary softmax.
        embedding_size: width of cluster 0, in dimensions; ``None`` = the hidden size.
        embedding_divisor: cluster ``i`` has ``floor(embedding_size / embedding_divisor ** i)`` dimensions, at least 1.
        embedding_sizes: width of every cluster, instead of the two fields above. A cluster of width 0 has only its biases.
        embedding_dropout: dropout probability between table and projection.

    Raises:
        ValueError: the cut-offs or the widths do not fit the vocabulary.
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
        """Check the cut-offs and the widths.

        Raises:
            ValueError: they do not fit the vocabulary.
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
        """The first id of every cluster, and then the size of the vocabulary."""
        return [0, *(self.cutoffs or ()), self.vocab_size]
