"""Phi (1, 1.5, 2): attention and feed-forward block read one norm and are both added to its input; biases everywhere.

The residual stream after either block is the output of the layer. No norm belongs to one block alone.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("phi")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the feed-forward neurons of every layer."""
    if model.config.qk_layernorm:
        raise UnsupportedModelError("Phi models with query and key norms (qk_layernorm) cannot be pruned yet")
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index in range(last + 1):
        layer = f"layers.{index}"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "final_layernorm"
        groups += attention_groups(model, index, f"{layer}.self_attn", "dense", layer=layer, stream=end)
        groups += feed_forward_groups(model, index, f"{layer}.mlp", ("fc1",), "fc2", layer=layer, stream=end)
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_tokens": Role.WRITES,
    "layers.*.input_layernorm": Role.NORMS,
    "layers.*.self_attn.q_proj": Role.READS,
    "layers.*.self_attn.k_proj": Role.READS,
    "layers.*.self_attn.v_proj": Role.READS,
    "layers.*.self_attn.dense": Role.WRITES,
    "layers.*.mlp.fc1": Role.READS,
    "layers.*.mlp.fc2": Role.WRITES,
    "final_layernorm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
}


@stream("phi")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every Phi."""
    return _ROLES


@plain("phi")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``; the config derives the head size from the number of heads."""
    return with_even_layers(model, "fc2", "dense", head_field=False)
