"""DeBERTa (v1): post-LN like BERT, with q, k and v of one head next to each other in one matrix.

Relative positions have projections of their own in every layer. The norms are a class of DeBERTa, which cannot be masked, so
that the hidden size is not pruned. transformers loads ``q_bias`` and ``v_bias`` in float32 whatever the dtype, and the dense
model then fails in float16 and bfloat16, as the pruned one does.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, family, plain
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "structure"]


@family("deberta")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    if model.z_steps > 1:
        raise UnsupportedModelError("DeBERTa that repeats its last layer (z_steps above 1) cannot be pruned yet")
    groups: list[Group] = []
    for index, module in enumerate(model.encoder.layer):
        layer = f"encoder.layer.{index}"
        attention, output = f"{layer}.attention.self", f"{layer}.attention.output"
        own = module.attention.self
        if own.talking_head:
            raise UnsupportedModelError("DeBERTa whose heads are mixed (talking_head) cannot be pruned")
        head = own.attention_head_size
        heads = module.attention.output.dense.in_features // head
        if heads:
            positions = [name for name in ("pos_proj", "pos_q_proj") if hasattr(own, name)]
            biases = [f"{name}.bias" for name in positions if getattr(own, name).bias is not None]
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        Cut(f"{attention}.in_proj.weight", 0, 3 * head),
                        Cut(f"{attention}.q_bias", 0, head),
                        Cut(f"{attention}.v_bias", 0, head),
                        *(Cut(f"{attention}.{name}.weight", 0, head) for name in positions),
                        *(Cut(f"{attention}.{bias}", 0, head) for bias in biases),
                        Cut(f"{output}.dense.weight", 1, head),
                    ),
                    output_projection=f"{output}.dense",
                    block=attention,
                    layer=layer,
                    stream=f"{output}.LayerNorm",
                    attributes={f"{attention}.num_attention_heads": 1, f"{attention}.all_head_size": head},
                    other_inputs=tuple(f"{attention}.{name}" for name in positions),
                )
            )
        neurons = module.output.dense.in_features
        if neurons:
            up, down = f"{layer}.intermediate.dense", f"{layer}.output.dense"
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(Cut(f"{up}.weight", 0), Cut(f"{up}.bias", 0), Cut(f"{down}.weight", 1)),
                    output_projection=down,
                    block=f"{layer}.intermediate",
                    layer=layer,
                    stream=f"{layer}.output.LayerNorm",
                )
            )
    return Structure(tuple(groups))


@plain("deberta")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.output.dense.in_features, one.output.dense.in_features) for one in model.encoder.layer]
    return with_one_width("intermediate_size", "encoder.layer", sizes, model.config.hidden_size)
