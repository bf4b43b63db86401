"""GPT-Neo: pre-LN, learned positions, and attention that is global or local, layer by layer."""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("gpt_neo")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.h) - 1
    for index in range(last + 1):
        layer = f"h.{index}"
        attention = f"{layer}.attn.attention"
        groups += attention_groups(
            model,
            index,
            attention,
            "out_proj",
            layer=layer,
            stream=f"{layer}.ln_2",
            norms=(f"{layer}.ln_1",),
            attributes={f"{attention}.num_heads": 1},
            cache_slot="layer_id",
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            ("c_fc",),
            "c_proj",
            layer=layer,
            stream=f"h.{index + 1}.ln_1" if index < last else "ln_f",
            norms=(f"{layer}.ln_2",),
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "wte": Role.WRITES,
    "wpe": Role.WRITES,
    "h.*.ln_1": Role.NORMS,
    "h.*.attn.attention.q_proj": Role.READS,
    "h.*.attn.attention.k_proj": Role.READS,
    "h.*.attn.attention.v_proj": Role.READS,
    "h.*.attn.attention.out_proj": Role.WRITES,
    "h.*.ln_2": Role.NORMS,
    "h.*.mlp.c_fc": Role.READS,
    "h.*.mlp.c_proj": Role.WRITES,
    "ln_f": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "classifier": Role.READS,
    "qa_outputs": Role.READS,
}


@stream("gpt_neo")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every GPT-Neo."""
    return _ROLES


@plain("gpt_neo")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(layer.attn.attention.out_proj.in_features, layer.mlp.c_proj.in_features) for layer in model.h]
    return with_one_width("intermediate_size", "h", sizes, model.config.hidden_size)
