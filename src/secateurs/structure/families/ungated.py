"""Decoders with the attention of Llama and a feed-forward block without gates: Nemotron and Arcee.

The norms of Nemotron store their gain less 1, and a LayerNorm of that kind cannot be restricted to some dimensions, so its
hidden size stays.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("arcee", "nemotron")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index in range(last + 1):
        layer = f"layers.{index}"
        middle = f"{layer}.post_attention_layernorm"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "norm"
        groups += attention_groups(
            model, index, f"{layer}.self_attn", layer=layer, stream=middle, norms=(f"{layer}.input_layernorm",)
        )
        groups += feed_forward_groups(
            model, index, f"{layer}.mlp", ("up_proj",), layer=layer, stream=end, norms=(middle,)
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_tokens": Role.WRITES,
    "layers.*.input_layernorm": Role.NORMS,
    "layers.*.self_attn.q_proj": Role.READS,
    "layers.*.self_attn.k_proj": Role.READS,
    "layers.*.self_attn.v_proj": Role.READS,
    "layers.*.self_attn.o_proj": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.NORMS,
    "layers.*.mlp.up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("arcee")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every Arcee."""
    return _ROLES


@plain("arcee", "nemotron")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model)
