"""CLIP and SigLIP: a tower of text and a tower of images, each of them pre-LN layers with a bias in every projection.

A classifier of images has the groups of its tower only. The hidden size cannot be pruned: the
class token of CLIP is a parameter without a module of its own, and SigLIP ends in an attention with a fused projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import family
from secateurs.structure.structure import Group, Structure

__all__ = ["structure"]

TOWERS = {"text": "final_layer_norm", "vision": "post_layernorm"}
"""Tower -> its last norm. Its module is ``<tower>_model``."""


@family("clip", "siglip")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer of every tower."""
    groups: list[Group] = []
    for tower, norm in TOWERS.items():
        if hasattr(model, f"{tower}_model"):
            groups += _groups(getattr(model, f"{tower}_model"), tower, norm)
    return Structure(tuple(groups))


def _groups(module: Any, tower: str, last_norm: str) -> Iterator[Group]:
    """The groups of one tower, in data order.

    Args:
        module: the tower.
        tower: its name, with which the names of the groups begin.
        last_norm: name of the norm behind the last layer.
    """
    prefix = f"{tower}_model."
    # The masks of a batch are those of the text; images have no padding.
    tokens = "attention_mask" if tower == "text" else "pixel_mask"
    layers = module.encoder.layers
    for index, layer in enumerate(layers):
        path = f"{prefix}encoder.layers.{index}"
        attention, head = layer.self_attn, layer.self_attn.head_dim
        rows = [f"{path}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
        if heads := attention.out_proj.in_features // head:
            yield Group(
                f"{tower}.{index}.heads",
                Kind.HEAD,
                heads,
                cuts=(
                    *(Cut(f"{row}.weight", 0, head) for row in rows),
                    *(Cut(f"{row}.bias", 0, head) for row in rows),
                    Cut(f"{path}.self_attn.out_proj.weight", 1, head),
                ),
                output_projection=f"{path}.self_attn.out_proj",
                block=f"{path}.self_attn",
                layer=path,
                stream=f"{path}.layer_norm2",
                norms=(f"{path}.layer_norm1",),
                attributes={f"{path}.self_attn.num_heads": 1},
                cache="",
                tokens=tokens,
            )
        if neurons := layer.mlp.fc2.in_features:
            last = index == len(layers) - 1
            yield Group(
                f"{tower}.{index}.intermediate",
                Kind.INTERMEDIATE,
                neurons,
                cuts=(
                    Cut(f"{path}.mlp.fc1.weight", 0),
                    Cut(f"{path}.mlp.fc1.bias", 0),
                    Cut(f"{path}.mlp.fc2.weight", 1),
                ),
                output_projection=f"{path}.mlp.fc2",
                block=f"{path}.mlp",
                layer=path,
                stream=f"{prefix}{last_norm}" if last else f"{prefix}encoder.layers.{index + 1}.layer_norm1",
                norms=(f"{path}.layer_norm2",),
                tokens=tokens,
            )
