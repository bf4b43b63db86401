"""StableLM: pre-LN with LayerNorms, grouped-query attention, gated feed-forward; both blocks of a layer may be in parallel.

With ``use_parallel_residual`` both blocks read one norm, so no norm belongs to one block alone, and the residual stream after
either block is the output of the layer.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("stablelm")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    if model.config.qk_layernorm:
        raise UnsupportedModelError(
            "StableLM with a norm of its own for every query and key head (qk_layernorm) cannot be pruned yet"
        )
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, middle = f"{layer}.self_attn", f"{layer}.post_attention_layernorm"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "norm"
        apart = not module.use_parallel_residual
        groups += attention_groups(
            model,
            index,
            attention,
            layer=layer,
            stream=middle if apart else end,
            norms=(f"{layer}.input_layernorm",) if apart else (),
            attributes={
                f"{attention}.num_heads": module.self_attn.num_key_value_groups,
                f"{attention}.num_key_value_heads": 1,
            },
        )
        groups += feed_forward_groups(
            model, index, f"{layer}.mlp", layer=layer, stream=end, norms=(middle,) if apart else ()
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
    "layers.*.mlp.gate_proj": Role.READS,
    "layers.*.mlp.up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
}


@stream("stablelm")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every StableLM."""
    return _ROLES


@plain("stablelm")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``; the config derives the head size from the number of heads."""
    return with_even_layers(model, head_field=False)
