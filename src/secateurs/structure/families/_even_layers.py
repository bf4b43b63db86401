"""The plain config of decoders with grouped-query attention: the remaining layers have equal sizes."""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import PlainConfig

__all__ = ["with_even_layers"]

PER_LAYER = ("layer_types", "no_rope_layers")
"""Config fields that hold one value per layer."""


def with_even_layers(
    model: Any, output: str = "down_proj", attention_output: str = "o_proj", *, head_field: bool = True
) -> PlainConfig | None:
    """The config of a model without the layers that add nothing, or ``None`` if the other layers differ in size.

    Args:
        model: the pruned base model, with ``layers``, each with ``self_attn`` and ``mlp``.
        output: name of the output projection of the feed-forward block.
        attention_output: name of the output projection of the attention.
        head_field: the config keeps a given ``head_dim``. Without it every head must be present.
    """
    config, kept, sizes = model.config, list[int](), set[tuple[int, int]]()
    for index, layer in enumerate(model.layers):
        attn, down = layer.self_attn, getattr(layer.mlp, output)
        out = getattr(attn, attention_output)
        size = (out.in_features // (attn.head_dim * attn.num_key_value_groups), down.in_features)
        if size == (0, 0) and out.bias is None and down.bias is None:
            continue
        kept.append(index)
        sizes.add(size)
    if len(sizes) != 1 or 0 in (size := sizes.pop()):
        return None
    heads, neurons = size
    attn = model.layers[kept[0]].self_attn
    queries = heads * attn.num_key_value_groups
    if "validate_architecture" in vars(type(config)) and config.hidden_size % queries:
        return None  # such a config refuses this even if head_dim is given
    if not head_field and config.hidden_size != queries * attn.head_dim:
        return None
    changes: dict[str, Any] = {
        "num_hidden_layers": len(kept),
        "num_attention_heads": queries,
        "num_key_value_heads": heads,
        **({"head_dim": attn.head_dim} if head_field else {}),
        "intermediate_size": neurons,
    }
    for field in PER_LAYER:
        if values := getattr(config, field, None):
            changes[field] = [values[index] for index in kept]
    return PlainConfig(changes, "layers", tuple(kept))
