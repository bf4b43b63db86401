"""Phi-3: the layout of Llama with fused projections: queries, keys and values in one, gates and values in another.

The attention takes the number of its query heads from the config, so each attention that lost heads has a config of its own.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("phi3")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, middle = f"{layer}.self_attn", f"{layer}.post_attention_layernorm"
        queries = module.self_attn.num_key_value_groups
        groups += attention_groups(
            model,
            index,
            attention,
            layer=layer,
            fused="qkv_proj",
            stream=middle,
            norms=(f"{layer}.input_layernorm",),
            attributes={f"{attention}.config.num_attention_heads": queries, f"{attention}.num_key_value_heads": 1},
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            layer=layer,
            fused="gate_up_proj",
            stream=f"layers.{index + 1}.input_layernorm" if index < last else "norm",
            norms=(middle,),
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_tokens": Role.WRITES,
    "layers.*.input_layernorm": Role.NORMS,
    "layers.*.self_attn.qkv_proj": Role.READS,
    "layers.*.self_attn.o_proj": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.NORMS,
    "layers.*.mlp.gate_up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
}


@stream("phi3")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every Phi-3."""
    return _ROLES


@plain("phi3")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model)
