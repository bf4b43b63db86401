"""Llama and the decoders with the same layout: pre-LN (RMSNorm), grouped-query attention, gated feed-forward (SwiGLU).

One head unit is a key-value head with its query heads, so their ratio never changes. Norms over the head size (Qwen3)
are shared by all heads and are never cut.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.structure import Cut, Group, Kind, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("llama", "mistral", "qwen2", "qwen3")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        attn = module.self_attn
        queries = attn.num_key_value_groups
        heads = attn.k_proj.out_features // attn.head_dim
        if heads:
            rows = {"q_proj": queries * attn.head_dim, "k_proj": attn.head_dim, "v_proj": attn.head_dim}
            biases = [name for name in rows if getattr(attn, name).bias is not None]
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{attention}.{name}.weight", 0, width) for name, width in rows.items()),
                        *(Cut(f"{attention}.{name}.bias", 0, rows[name]) for name in biases),
                        Cut(f"{attention}.o_proj.weight", 1, queries * attn.head_dim),
                    ),
                    output_projection=f"{attention}.o_proj",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.post_attention_layernorm",
                    norms=(f"{layer}.input_layernorm",),
                )
            )
        neurons = module.mlp.down_proj.in_features
        if neurons:
            biases = [name for name in ("gate_proj", "up_proj") if getattr(module.mlp, name).bias is not None]
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(
                        Cut(f"{mlp}.gate_proj.weight", 0),
                        Cut(f"{mlp}.up_proj.weight", 0),
                        *(Cut(f"{mlp}.{name}.bias", 0) for name in biases),
                        Cut(f"{mlp}.down_proj.weight", 1),
                    ),
                    output_projection=f"{mlp}.down_proj",
                    block=mlp,
                    layer=layer,
                    stream=f"layers.{index + 1}.input_layernorm" if index < last else "norm",
                    norms=(f"{layer}.post_attention_layernorm",),
                )
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


@stream("llama", "mistral", "qwen2", "qwen3")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; the same for every model. Norms over the head size do not use it."""
    return _ROLES


@plain("llama", "mistral", "qwen2", "qwen3")
def plain_config(model: Any) -> PlainConfig | None:
    """The config of a model without the layers that add nothing; the other layers must have equal sizes."""
    config, kept, sizes = model.config, [], set()
    for index, layer in enumerate(model.layers):
        attn, mlp = layer.self_attn, layer.mlp
        size = (attn.k_proj.out_features // attn.head_dim, mlp.down_proj.in_features)
        if size == (0, 0) and attn.o_proj.bias is None and mlp.down_proj.bias is None:
            continue
        kept.append(index)
        sizes.add(size)
    if len(sizes) != 1 or 0 in (size := sizes.pop()):
        return None
    heads, neurons = size
    queries = heads * model.layers[kept[0]].self_attn.num_key_value_groups
    if config.model_type == "llama" and config.hidden_size % queries:
        return None  # LlamaConfig refuses this even if head_dim is given
    changes: dict[str, Any] = {
        "num_hidden_layers": len(kept),
        "num_attention_heads": queries,
        "num_key_value_heads": heads,
        "head_dim": model.layers[kept[0]].self_attn.head_dim,
        "intermediate_size": neurons,
    }
    if getattr(config, "layer_types", None):
        changes["layer_types"] = [config.layer_types[index] for index in kept]
    return PlainConfig(changes, "layers", tuple(kept))
