"""Decoders with a norm before and a norm behind each sub-block: Gemma 2, the text model of Gemma 3, GLM-4, HyperCLOVA X.

The norm behind a removed sub-block stays: it maps the zeros that are left of the block to zeros, or a bias to something
else. HyperCLOVA X may lack these norms, and scales what it adds to the stream. Norms over the head size (Gemma 3) are shared
by all heads and are never cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.nn import Identity

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


class Names(NamedTuple):
    """Names of the norms of a layer, and of a fused projection of its feed-forward block."""

    behind_attention: str
    before_feed_forward: str
    behind_feed_forward: str
    fused: str = ""


GEMMA = Names("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
NAMES = {
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "hyperclovax": Names("post_norm1", "post_attention_layernorm", "post_norm2"),
    "glm4": Names("post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm", "gate_up_proj"),
}


@family(*NAMES)
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    groups: list[Group] = []
    names, last = NAMES[model.config.model_type], len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        scale = float(getattr(module, "residual_multiplier", 1.0))
        behind = not isinstance(getattr(module, names.behind_attention), Identity)
        middle = f"{layer}.{names.before_feed_forward}"
        groups += attention_groups(
            model,
            index,
            f"{layer}.self_attn",
            layer=layer,
            stream=middle,
            norms=(f"{layer}.input_layernorm",),
            post_norm=f"{layer}.{names.behind_attention}" if behind else "",
            scale=scale,
        )
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            layer=layer,
            fused=names.fused,
            stream=f"layers.{index + 1}.input_layernorm" if index < last else "norm",
            norms=(middle,),
            post_norm=f"{layer}.{names.behind_feed_forward}" if behind else "",
            scale=scale,
        )
    return Structure(tuple(groups))


@stream(*NAMES)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. Norms over the head size do not use it."""
    return {
        "embed_tokens": Role.WRITES,
        "layers.*.input_layernorm": Role.NORMS,
        **{f"layers.*.{name}": Role.NORMS for name in NAMES[base.config.model_type][:3]},
        **{f"layers.*.self_attn.{name}": Role.READS for name in ("q_proj", "k_proj", "v_proj")},
        **{f"layers.*.self_attn.{name}": Role.APART for name in ("q_norm", "k_norm")},
        "layers.*.self_attn.o_proj": Role.WRITES,
        **{f"layers.*.mlp.{name}": Role.READS for name in ("gate_proj", "up_proj", "gate_up_proj")},
        "layers.*.mlp.down_proj": Role.WRITES,
        "norm": Role.NORMS,
        "lm_head": Role.READS,
        "score": Role.READS,
    }


@plain(*NAMES)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``: a norm without a bias adds nothing behind a removed sub-block without a bias."""
    return with_even_layers(model)
