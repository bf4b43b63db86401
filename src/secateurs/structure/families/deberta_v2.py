"""DeBERTa v2 and v3: post-LN like BERT, with attention between contents and relative positions.

Positions are projected by the projections of queries and keys (v3), or by matrices of their own. Both have the heads of the
layer. Relative positions are embedded in the dimensions of the residual stream.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("deberta-v2")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    if model.encoder.conv is not None:
        raise UnsupportedModelError(
            "DeBERTa with a convolution after its first layer (conv_kernel_size above 0) cannot be pruned yet"
        )
    if model.z_steps > 1:
        raise UnsupportedModelError("DeBERTa that repeats its last layer (z_steps above 1) cannot be pruned yet")
    groups: list[Group] = []
    for index, module in enumerate(model.encoder.layer):
        layer = f"encoder.layer.{index}"
        attention, output = f"{layer}.attention.self", f"{layer}.attention.output"
        own = module.attention.self
        head = own.attention_head_size
        heads = module.attention.output.dense.in_features // head
        if heads:
            positions = [name for name in ("pos_key_proj", "pos_query_proj") if hasattr(own, name)]
            if own.relative_attention and own.share_att_key:
                positions = ["query_proj", "key_proj"]
            names = dict.fromkeys(("query_proj", "key_proj", "value_proj", *positions))
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{attention}.{name}.{part}", 0, head) for name in names for part in ("weight", "bias")),
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


_ROLES: Roles = {
    "embeddings.embed_proj": Role.WRITES,
    "embeddings.LayerNorm": Role.RENEWS,
    "encoder.rel_embeddings": Role.WRITES,
    "encoder.LayerNorm": Role.RENEWS,
    "encoder.layer.*.attention.self.query_proj": Role.READS,
    "encoder.layer.*.attention.self.key_proj": Role.READS,
    "encoder.layer.*.attention.self.value_proj": Role.READS,
    "encoder.layer.*.attention.self.pos_key_proj": Role.READS,
    "encoder.layer.*.attention.self.pos_query_proj": Role.READS,
    "encoder.layer.*.attention.output.dense": Role.WRITES,
    "encoder.layer.*.attention.output.LayerNorm": Role.RENEWS,
    "encoder.layer.*.intermediate.dense": Role.READS,
    "encoder.layer.*.output.dense": Role.WRITES,
    "encoder.layer.*.output.LayerNorm": Role.RENEWS,
    "pooler.dense": Role.READS,
    "qa_outputs": Role.READS,
    "cls.predictions": Role.APART,
    "cls.predictions.transform.dense": Role.BRIDGES,
    "cls.predictions.transform.LayerNorm": Role.RENEWS,
    "cls.predictions.decoder": Role.READS,
    "lm_predictions.lm_head": Role.APART,
    "lm_predictions.lm_head.dense": Role.BRIDGES,
    "lm_predictions.lm_head.LayerNorm": Role.RENEWS,
}
_NARROW: Roles = {
    "cls.predictions.transform.dense": Role.READS,
    "cls.predictions.transform.LayerNorm": Role.APART,
    "cls.predictions.decoder": Role.APART,
}
_EMBEDDINGS = tuple(f"embeddings.{part}_embeddings" for part in ("word", "position", "token_type"))


@stream("deberta-v2")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream.

    A ``classifier`` takes its input from the pooler of the head, if there is one. Embeddings that have a size of their own
    are projected to the stream.
    """
    narrow = base.embeddings.embed_proj is not None
    return {
        **_ROLES,
        **(_NARROW if narrow else {}),
        **dict.fromkeys(_EMBEDDINGS, Role.APART if narrow else Role.WRITES),
        "classifier": Role.APART if hasattr(model, "pooler") else Role.READS,
    }


@plain("deberta-v2")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.output.dense.in_features, one.output.dense.in_features) for one in model.encoder.layer]
    heads = model.config.num_attention_heads
    head = getattr(model.config, "attention_head_size", model.config.hidden_size // heads)
    return with_one_width("intermediate_size", "encoder.layer", sizes, heads * head)
