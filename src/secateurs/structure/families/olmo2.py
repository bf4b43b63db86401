"""Decoders with a norm behind each sub-block and none before it: OLMo 2, OLMo 3 and EXAONE 4.

The queries of all heads of an OLMo are normalised together, and so are the keys. The norms of a pruned model run over the
heads that it kept. Norms over the head size (EXAONE 4) are shared by all heads and are never cut.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

TYPES = ("olmo2", "olmo3", "exaone4")
WITH_JOINT_NORMS = ("olmo2", "olmo3")


@family(*TYPES)
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    joint = model.config.model_type in WITH_JOINT_NORMS
    for index in range(last + 1):
        layer = f"layers.{index}"
        groups += attention_groups(
            model,
            index,
            f"{layer}.self_attn",
            layer=layer,
            joint_norms=("q_norm", "k_norm") if joint else (),
            stream=f"{layer}.mlp",
            post_norm=f"{layer}.post_attention_layernorm",
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            layer=layer,
            stream=f"layers.{index + 1}.self_attn" if index < last else "norm",
            post_norm=f"{layer}.post_feedforward_layernorm",
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_tokens": Role.WRITES,
    "layers.*.self_attn.q_proj": Role.READS,
    "layers.*.self_attn.k_proj": Role.READS,
    "layers.*.self_attn.v_proj": Role.READS,
    "layers.*.self_attn.q_norm": Role.APART,
    "layers.*.self_attn.k_norm": Role.APART,
    "layers.*.self_attn.o_proj": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.NORMS,
    "layers.*.mlp.gate_proj": Role.READS,
    "layers.*.mlp.up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "layers.*.post_feedforward_layernorm": Role.NORMS,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "qa_outputs": Role.READS,
}


@stream(*TYPES)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. Norms over queries and keys do not use it."""
    return _ROLES


@plain(*TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``: a norm without a bias adds nothing behind a removed sub-block."""
    return with_even_layers(model)
