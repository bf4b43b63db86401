"""Decoders with the attention of Llama and a feed-forward block without gates: Nemotron, Arcee and Apertus.

The norms of Nemotron store their gain less 1, and a LayerNorm of that kind cannot be restricted to some dimensions, so its
hidden size stays. Norms over the head size and the learned activation of Apertus are never cut.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

NORMS = {
    "arcee": ("input_layernorm", "post_attention_layernorm"),
    "apertus": ("attention_layernorm", "feedforward_layernorm"),
    "nemotron": ("input_layernorm", "post_attention_layernorm"),
}
"""Model type -> names of the norms before the attention and before the feed-forward block."""


@family(*NORMS)
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    first, second = NORMS[model.config.model_type]
    last = len(model.layers) - 1
    for index in range(last + 1):
        layer = f"layers.{index}"
        middle = f"{layer}.{second}"
        end = f"layers.{index + 1}.{first}" if index < last else "norm"
        groups += attention_groups(
            model, index, f"{layer}.self_attn", layer=layer, stream=middle, norms=(f"{layer}.{first}",)
        )
        groups += feed_forward_groups(
            model, index, f"{layer}.mlp", ("up_proj",), layer=layer, stream=end, norms=(middle,)
        )
    return Structure(tuple(groups))


@stream("arcee", "apertus")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream."""
    return {
        "embed_tokens": Role.WRITES,
        **{f"layers.*.{name}": Role.NORMS for name in NORMS[base.config.model_type]},
        **{f"layers.*.self_attn.{name}": Role.READS for name in ("q_proj", "k_proj", "v_proj")},
        **{f"layers.*.self_attn.{name}": Role.APART for name in ("q_norm", "k_norm")},
        "layers.*.self_attn.o_proj": Role.WRITES,
        "layers.*.mlp.up_proj": Role.READS,
        "layers.*.mlp.act_fn": Role.APART,
        "layers.*.mlp.down_proj": Role.WRITES,
        "norm": Role.NORMS,
        "lm_head": Role.READS,
        "score": Role.READS,
        "qa_outputs": Role.READS,
    }


@plain(*NORMS)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model)
