"""MPNet: post-LN like BERT, with one position bias that is computed once and added in every layer.

The bias has one entry for every head of the dense model, so each attention selects its heads from it, and its table is not
cut.
"""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("mpnet")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    for index, module in enumerate(model.encoder.layer):
        layer = f"encoder.layer.{index}"
        attention = f"{layer}.attention.attn"
        head = module.attention.attn.attention_head_size
        heads = module.attention.attn.o.in_features // head
        if heads:
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{attention}.{name}.{part}", 0, head) for name in "qkv" for part in ("weight", "bias")),
                        Cut(f"{attention}.o.weight", 1, head),
                    ),
                    output_projection=f"{attention}.o",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.attention.LayerNorm",
                    attributes={f"{attention}.num_attention_heads": 1, f"{attention}.all_head_size": head},
                    per_head={"position_bias": 1},
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
    "embeddings.word_embeddings": Role.WRITES,
    "embeddings.position_embeddings": Role.WRITES,
    "embeddings.LayerNorm": Role.RENEWS,
    "encoder.relative_attention_bias": Role.APART,
    "encoder.layer.*.attention.attn.q": Role.READS,
    "encoder.layer.*.attention.attn.k": Role.READS,
    "encoder.layer.*.attention.attn.v": Role.READS,
    "encoder.layer.*.attention.attn.o": Role.WRITES,
    "encoder.layer.*.attention.LayerNorm": Role.RENEWS,
    "encoder.layer.*.intermediate.dense": Role.READS,
    "encoder.layer.*.output.dense": Role.WRITES,
    "encoder.layer.*.output.LayerNorm": Role.RENEWS,
    "pooler.dense": Role.POOLS,
    "qa_outputs": Role.READS,
    "classifier.dense": Role.READS,
    "classifier.out_proj": Role.APART,
    "lm_head": Role.APART,
    "lm_head.dense": Role.BRIDGES,
    "lm_head.layer_norm": Role.RENEWS,
    "lm_head.decoder": Role.READS,
}


@stream("mpnet")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. A single ``classifier`` layer takes its input from a pooler, if any."""
    return {**_ROLES, "classifier": Role.READS if getattr(base, "pooler", None) is None else Role.APART}


@plain("mpnet")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.attn.o.in_features, one.output.dense.in_features) for one in model.encoder.layer]
    return with_one_width("intermediate_size", "encoder.layer", sizes, model.config.hidden_size)
