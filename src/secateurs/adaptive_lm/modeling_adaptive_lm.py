"""A decoder with adaptive input embeddings and an adaptive softmax.

This file is saved beside the weights, so it imports only torch and transformers.

Word ``w`` of cluster ``i`` is embedded as ``sqrt(H) A_i E_i[w]`` (Baevski and Auli, "Adaptive Input Representations for
Neural Language Modeling", 2019), and scored by ``(h A_i) E_i[w] + b[w]`` (Grave et al., "Efficient softmax approximation
for GPUs", 2017, with the tables and projections of the embeddings). The *head* of the softmax chooses among the words of
cluster 0 and the other clusters: ``log p(w) = log p(cluster) + log p(w | cluster)``.

This differs from Transformer-XL, where the scores of the other clusters are computed from the projection ``h A_0``. Here they
are computed from the hidden state ``h`` itself, so that pruning cluster 0 does not change the choice among the clusters.

The body is Llama of transformers; its layers, cache and attention are used unchanged.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.utils import can_return_tuple

from .configuration_adaptive_lm import AdaptiveLMConfig

__all__ = ["AdaptiveEmbedding", "AdaptiveLMForCausalLM", "AdaptiveLMModel", "AdaptiveSoftmax"]

NO_LABEL = -100


class ToHidden(nn.Module):
    """The matrix of ``A_i`` (hidden x width).

    It is no ``nn.Linear``. The softmax uses the same matrix transposed, so a tool that replaces linear modules (LoRA, int8)
    would change the embeddings alone. Such tools leave out tied embeddings too.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        weight = nn.Linear(max(1, width), hidden, bias=False).weight  # for width 0, nn.Linear would warn
        self.in_features, self.out_features, self.bias = width, hidden, None
        self.weight = weight if width else nn.Parameter(weight.detach()[:, :0])

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return functional.linear(embedded, self.weight)


class Projection(nn.Module):
    """``A_i``: dropout, then a projection from the width of a cluster to the hidden size."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = ToHidden(width, hidden)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Project embeddings of shape ``(words, width)`` to ``(words, hidden)``."""
        return self.linear(self.dropout(embedded))


class Cluster(nn.Module):
    """The parameters of one cluster of words: the table ``E_i`` (words x width) and the projection ``A_i``."""

    def __init__(self, words: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.projection = Projection(width, hidden, dropout)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Embed words, given by their index within the cluster: ``(words,) -> (words, hidden)``."""
        return self.projection(self.table(words))

    def logits(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Score every word of the cluster: ``(rows, hidden) -> (rows, words)``."""
        return functional.linear(functional.linear(hidden, self.projection.linear.weight.T), self.table.weight, bias)


def build_clusters(config: AdaptiveLMConfig) -> nn.ModuleList:
    """One ``Cluster`` for every range of ids between two cut-offs."""
    edges, widths = config.cluster_edges, config.embedding_sizes or []
    return nn.ModuleList(
        Cluster(end - start, width, config.hidden_size, config.embedding_dropout)
        for (start, end), width in zip(pairwise(edges), widths, strict=True)
    )


def precise(scores: torch.Tensor) -> torch.Tensor:
    """Scores in fp32 or fp64: the precision of bfloat16 (8 bits) is too low for a softmax over many words."""
    return scores if scores.dtype == torch.float64 else scores.float()


class AdaptiveEmbedding(nn.Module):
    """Adaptive input embeddings: word ids of any shape -> ``sqrt(H) A_i E_i[w]``, with one more dimension."""

    def __init__(self, config: AdaptiveLMConfig) -> None:
        super().__init__()
        self.edges, self.hidden = config.cluster_edges, config.hidden_size
        self.clusters = build_clusters(config)

    @property
    def num_embeddings(self) -> int:
        return self.edges[-1]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        words = ids.reshape(-1)
        first: Any = self.clusters[0]
        weight = first.projection.linear.weight
        embedded = torch.zeros(len(words), weight.shape[0], dtype=weight.dtype, device=weight.device)
        for (start, end), cluster in zip(pairwise(self.edges), self.clusters, strict=True):
            rows = ((words >= start) & (words < end)).nonzero().squeeze(1)
            embedded = embedded.index_copy(0, rows, cluster(words[rows] - start).to(embedded.dtype))
        return embedded.view(*ids.shape, -1) * self.hidden**0.5


class AdaptiveSoftmax(nn.Module):
    """Adaptive softmax: scores the next word cluster by cluster.

    Args:
        config: the config of the model. With ``tie_word_embeddings`` the module has no tables, and uses those of the
            embeddings that every call passes.
    """

    def __init__(self, config: AdaptiveLMConfig) -> None:
        super().__init__()
        self.edges = config.cluster_edges
        tails = len(self.edges) - 2
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.tails = nn.Linear(config.hidden_size, tails) if tails else None
        self.clusters = None if config.tie_word_embeddings else build_clusters(config)

    def forward(self, hidden: torch.Tensor, embeddings: AdaptiveEmbedding) -> torch.Tensor:
        """Log-probabilities of all words: ``(rows, hidden) -> (rows, vocabulary)``."""
        head = precise(self._head(hidden, embeddings)).log_softmax(-1)
        first = self.edges[1]
        parts = [head[:, :first]]
        for index in range(1, len(self.edges) - 1):
            tail = precise(self._tail(hidden, embeddings, index)).log_softmax(-1)
            parts.append(head[:, first + index - 1, None] + tail)
        return torch.cat(parts, -1)

    def nll(self, hidden: torch.Tensor, embeddings: AdaptiveEmbedding, words: torch.Tensor) -> torch.Tensor:
        """Negative log-probability of one word per row, in nats: ``(rows, hidden), (rows,) -> (rows,)``.

        The words of a cluster other than 0 are scored only for the rows whose word is in that cluster.
        """
        first = self.edges[1]
        inside = [(words >= start) & (words < end) for start, end in pairwise(self.edges[1:])]
        choice = words
        for index, here in enumerate(inside):
            choice = torch.where(here, first + index, choice)
        nll = functional.cross_entropy(precise(self._head(hidden, embeddings)), choice, reduction="none")
        for index, here in enumerate(inside, 1):
            rows = here.nonzero().squeeze(1)
            scores, targets = self._tail(hidden[rows], embeddings, index), words[rows] - self.edges[index]
            nll = nll.index_add(0, rows, functional.cross_entropy(precise(scores), targets, reduction="none"))
        return nll

    def _head(self, hidden: torch.Tensor, embeddings: AdaptiveEmbedding) -> torch.Tensor:
        scores = self._cluster(embeddings, 0).logits(hidden, self.bias[: self.edges[1]])
        return scores if self.tails is None else torch.cat([scores, self.tails(hidden)], -1)

    def _tail(self, hidden: torch.Tensor, embeddings: AdaptiveEmbedding, index: int) -> torch.Tensor:
        bias = self.bias[self.edges[index] : self.edges[index + 1]]
        return self._cluster(embeddings, index).logits(hidden, bias)

    def _cluster(self, embeddings: AdaptiveEmbedding, index: int) -> Any:
        return (embeddings.clusters if self.clusters is None else self.clusters)[index]


class AdaptiveLMPreTrainedModel(LlamaPreTrainedModel):
    config_class = AdaptiveLMConfig
    _can_compile_fullgraph = False  # which rows belong to which cluster depends on the data

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise so that embeddings and scores of words have variance 1 in every cluster."""
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=max(1, module.embedding_dim) ** -0.5)
        elif isinstance(module, ToHidden):
            init.normal_(module.weight)  # a discarded draw, so that a seed gives the same model as in earlier versions
            init.normal_(module.weight, std=module.out_features**-0.5)
        elif isinstance(module, AdaptiveSoftmax):
            init.zeros_(module.bias)


class AdaptiveLMModel(AdaptiveLMPreTrainedModel, LlamaModel):
    """The base model: adaptive embeddings and the body. It outputs hidden states."""

    def __init__(self, config: AdaptiveLMConfig) -> None:
        super(LlamaModel, self).__init__(config)  # skips Llama's constructor, which builds one embedding table
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = AdaptiveEmbedding(config)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class AdaptiveLMForCausalLM(AdaptiveLMPreTrainedModel, GenerationMixin):
    """The language model.

    Its ``logits`` are log-probabilities. With ``labels`` it returns only the loss, and never holds the scores of the full
    vocabulary in memory.
    """

    loss_without_logits = True
    """The loss can be computed without logits, which is far cheaper."""

    def __init__(self, config: AdaptiveLMConfig) -> None:
        super().__init__(config)
        self.model = AdaptiveLMModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = AdaptiveSoftmax(config)
        self.post_init()

    def get_output_embeddings(self) -> None:
        """Always ``None``: the output embeddings are not a single matrix."""
        return

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Ids ``(batch, positions)`` -> log-probabilities ``(batch, positions, vocabulary)`` of the next word.

        Args:
            labels: ``input_ids``, with -100 at positions that do not count. The loss is the mean negative log-probability
                of every next id, in nats.
            logits_to_keep: number of positions, counted from the end, to compute log-probabilities for (0 = all), or the
                indices of these positions.
            num_items_in_batch: divide the summed negative log-probability by this instead of the number of labels.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden, loss, logits = outputs.last_hidden_state, None, None
        if labels is not None:
            words = labels[:, 1:].to(hidden.device)
            counted = words != NO_LABEL
            nll = self.lm_head.nll(hidden[:, :-1][counted], self.model.embed_tokens, words[counted])
            loss = nll.mean() if num_items_in_batch is None else nll.sum() / num_items_in_batch
        else:
            kept = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden = hidden[:, kept]
            rows = self.lm_head(hidden.flatten(0, 1), self.model.embed_tokens)
            logits = rows.view(*hidden.shape[:2], -1)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
