"""ViT and the vision transformers with its layout: pre-LN, biases in every projection, images as the input.

The hidden size cannot be pruned: the class token and the positions are parameters without a module of their own.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, family, plain
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "structure"]


@family("vit", "deit")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    last = len(model.layers) - 1
    for index, module in enumerate(model.layers):
        layer = f"layers.{index}"
        attention, mlp = f"{layer}.attention", f"{layer}.mlp"
        head = module.attention.head_dim
        if heads := module.attention.o_proj.in_features // head:
            rows = [f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj")]
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{path}.weight", 0, head) for path in rows),
                        *(Cut(f"{path}.bias", 0, head) for path in rows if model.get_submodule(path).bias is not None),
                        Cut(f"{attention}.o_proj.weight", 1, head),
                    ),
                    output_projection=f"{attention}.o_proj",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.layernorm_after",
                    norms=(f"{layer}.layernorm_before",),
                    attributes={f"{attention}.num_attention_heads": 1},
                )
            )
        if neurons := module.mlp.fc2.in_features:
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(Cut(f"{mlp}.fc1.weight", 0), Cut(f"{mlp}.fc1.bias", 0), Cut(f"{mlp}.fc2.weight", 1)),
                    output_projection=f"{mlp}.fc2",
                    block=mlp,
                    layer=layer,
                    stream=f"layers.{index + 1}.layernorm_before" if index < last else "layernorm",
                    norms=(f"{layer}.layernorm_after",),
                )
            )
    return Structure(tuple(groups))


@plain("vit", "deit")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.o_proj.in_features, one.mlp.fc2.in_features) for one in model.layers]
    return with_one_width("intermediate_size", "layers", sizes, model.config.hidden_size)
