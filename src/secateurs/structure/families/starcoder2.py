"""StarCoder2: pre-LN (LayerNorm), grouped-query attention, a plain feed-forward block, biases everywhere."""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("starcoder2")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index in range(last + 1):
        layer = f"layers.{index}"
        after = f"{layer}.post_attention_layernorm"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "norm"
        entry = (f"{layer}.input_layernorm",)
        groups += attention_groups(model, index, f"{layer}.self_attn", layer=layer, stream=after, norms=entry)
        groups += feed_forward_groups(
            model, index, f"{layer}.mlp", ("c_fc",), "c_proj", layer=layer, stream=end, norms=(after,)
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
    "layers.*.mlp.c_fc": Role.READS,
    "layers.*.mlp.c_proj": Role.WRITES,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
}


@stream("starcoder2")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every StarCoder2."""
    return _ROLES


@plain("starcoder2")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model, "c_proj")
