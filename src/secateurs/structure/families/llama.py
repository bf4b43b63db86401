"""Llama and the decoders with the same layout: pre-LN (RMSNorm), grouped-query attention, gated feed-forward (SwiGLU).

One head unit is a key-value head with its query heads, so their ratio never changes. Norms over the head size (Qwen3)
are shared by all heads and are never cut.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


TYPES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "ministral", "ministral3"),
    *("seed_oss", "helium", "hunyuan_v1_dense", "olmo", "gemma", "granite", "ernie4_5"),
)
WITHOUT_GAINS = ("olmo",)
"""Types whose norms have no parameters. A norm is cut by its gain, so the hidden size of these types cannot be pruned."""

SQUARE_OUTPUTS = ("helium",)
"""Types whose output projection has as many inputs as outputs, whatever the head size in the config is."""


@family(*TYPES)
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        scale = float(getattr(module, "residual_multiplier", 1.0))
        layer = f"layers.{index}"
        after = f"{layer}.post_attention_layernorm"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "norm"
        entry = (f"{layer}.input_layernorm",)
        groups += attention_groups(
            model, index, f"{layer}.self_attn", layer=layer, stream=after, norms=entry, scale=scale
        )
        groups += feed_forward_groups(
            model, index, f"{layer}.mlp", layer=layer, stream=end, norms=(after,), scale=scale
        )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embed_tokens": Role.WRITES,
    "layers.*.input_layernorm": Role.NORMS,
    "layers.*.self_attn.q_proj": Role.READS,
    "layers.*.self_attn.k_proj": Role.READS,
    "layers.*.self_attn.v_proj": Role.READS,
    "layers.*.self_attn.q_norm": Role.APART,
    "layers.*.self_attn.k_norm": Role.APART,
    "layers.*.self_attn.query_layernorm": Role.APART,
    "layers.*.self_attn.key_layernorm": Role.APART,
    "layers.*.self_attn.o_proj": Role.WRITES,
    "layers.*.post_attention_layernorm": Role.NORMS,
    "layers.*.mlp.gate_proj": Role.READS,
    "layers.*.mlp.up_proj": Role.READS,
    "layers.*.mlp.down_proj": Role.WRITES,
    "norm": Role.NORMS,
    "lm_head": Role.READS,
    "score": Role.READS,
    "qa_outputs": Role.READS,
}


@stream(*(name for name in TYPES if name not in WITHOUT_GAINS))
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every model. Norms over the head size do not use it."""
    return _ROLES


@plain(*TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``."""
    return with_even_layers(model, head_field=model.config.model_type not in SQUARE_OUTPUTS)
