"""DINOv2, with and without registers: pre-LN, and a layer scale behind each sub-block, one factor for every hidden dimension.

The feed-forward block is fc1 and fc2, or gated (gate, up and down), as in the giant model. The hidden size cannot be pruned:
tokens and positions are parameters without a module of their own, and the head reads the stream twice. There is no plain
config either: it has a whole multiple of the hidden size as the width of the feed-forward block, and no head size.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.families import family
from secateurs.structure.families._blocks import attention_groups, feed_forward_groups
from secateurs.structure.structure import Group, Structure

__all__ = ["structure"]


@family("dinov2", "dinov2_with_registers")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    layers = model.encoder.layer
    for index, module in enumerate(layers):
        layer = f"encoder.layer.{index}"
        following = f"encoder.layer.{index + 1}.norm1" if index + 1 < len(layers) else "layernorm"
        groups += attention_groups(
            model,
            index,
            f"{layer}.attention",
            layer=layer,
            stream=f"{layer}.norm2",
            norms=(f"{layer}.norm1",),
            attributes={f"{layer}.attention.num_attention_heads": 1},
            channel_scale=f"{layer}.layer_scale1.lambda1",
        )
        gated = hasattr(module.mlp, "gate_proj")
        groups += feed_forward_groups(
            model,
            index,
            f"{layer}.mlp",
            ("gate_proj", "up_proj") if gated else ("fc1",),
            "down_proj" if gated else "fc2",
            layer=layer,
            stream=following,
            norms=(f"{layer}.norm2",),
            channel_scale=f"{layer}.layer_scale2.lambda1",
        )
    return Structure(tuple(groups))
