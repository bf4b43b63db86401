"""Cohere and Cohere 2: attention and feed-forward block read one norm and are both added to its input.

The residual stream after either block is the output of the layer. No norm belongs to one block alone. The norms are a
LayerNorm class of transformers' own that cannot be restricted to some dimensions, so the hidden size stays.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.families import PlainConfig, family, plain
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.families._even_layers import with_even_layers
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "structure"]


@family("cohere", "cohere2")
def structure(model: Any) -> Structure:
    """The key-value heads (each with its query heads) and the gated feed-forward neurons of every layer."""
    if getattr(model.config, "use_qk_norm", False):
        raise UnsupportedModelError("Cohere models with query and key norms (one gain per head) cannot be pruned yet")
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index in range(last + 1):
        layer = f"layers.{index}"
        end = f"layers.{index + 1}.input_layernorm" if index < last else "norm"
        groups += attention_groups(model, index, f"{layer}.self_attn", layer=layer, stream=end)
        groups += feed_forward_groups(model, index, f"{layer}.mlp", layer=layer, stream=end)
    return Structure(tuple(groups))


@plain("cohere", "cohere2")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_even_layers``; the config derives the head size from the number of heads."""
    return with_even_layers(model, head_field=False)
