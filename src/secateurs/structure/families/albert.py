"""ALBERT: post-LN like BERT, one layer that is used several times, and embeddings narrower than the residual stream.

The heads and the neurons of the layer are cut once for all its uses. The attention holds the residual sum and the norm
behind it, so that a removed attention still applies its norm.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

_LAYERS = "encoder.albert_layer_groups.0.albert_layers"


@family("albert")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of the layer."""
    config = model.config
    if config.num_hidden_groups != 1 or config.inner_group_num != 1:
        raise UnsupportedModelError(
            f"this albert model has {config.num_hidden_groups} groups of {config.inner_group_num} layers; only those with "
            "one layer, which is used several times, can be pruned"
        )
    layer, groups = f"{_LAYERS}.0", list[Group]()
    module: Any = model.get_submodule(layer)
    attention, head = f"{layer}.attention", module.attention.attention_head_size
    if heads := module.attention.dense.in_features // head:
        parts = [f"{name}.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")]
        groups.append(
            Group(
                "layer.0.heads",
                Kind.HEAD,
                heads,
                cuts=(
                    *(Cut(f"{attention}.{part}", 0, head) for part in parts),
                    Cut(f"{attention}.dense.weight", 1, head),
                ),
                output_projection=f"{attention}.dense",
                block=attention,
                layer=layer,
                stream=f"{attention}.LayerNorm",
                attributes={f"{attention}.num_attention_heads": 1, f"{attention}.all_head_size": head},
                returns="tuple with norm",
            )
        )
    if neurons := module.ffn_output.in_features:
        groups.append(
            Group(
                "layer.0.intermediate",
                Kind.INTERMEDIATE,
                neurons,
                cuts=(Cut(f"{layer}.ffn.weight", 0), Cut(f"{layer}.ffn.bias", 0), Cut(f"{layer}.ffn_output.weight", 1)),
                output_projection=f"{layer}.ffn_output",
                block=f"{layer}.ffn",
                layer=layer,
                stream=f"{layer}.full_layer_layer_norm",
            )
        )
    return Structure(tuple(groups))


_LAYER = "encoder.albert_layer_groups.*.albert_layers.*"

_ROLES: Roles = {
    "embeddings.word_embeddings": Role.APART,
    "embeddings.position_embeddings": Role.APART,
    "embeddings.token_type_embeddings": Role.APART,
    "embeddings.LayerNorm": Role.APART,
    "encoder.embedding_hidden_mapping_in": Role.WRITES,
    f"{_LAYER}.attention.query": Role.READS,
    f"{_LAYER}.attention.key": Role.READS,
    f"{_LAYER}.attention.value": Role.READS,
    f"{_LAYER}.attention.dense": Role.WRITES,
    f"{_LAYER}.attention.LayerNorm": Role.RENEWS,
    f"{_LAYER}.ffn": Role.READS,
    f"{_LAYER}.ffn_output": Role.WRITES,
    f"{_LAYER}.full_layer_layer_norm": Role.RENEWS,
    "pooler": Role.POOLS,
    "qa_outputs": Role.READS,
    "sop_classifier.classifier": Role.APART,
    "predictions": Role.APART,
    "predictions.dense": Role.READS,
    "predictions.LayerNorm": Role.APART,
    "predictions.decoder": Role.APART,
}


@stream("albert")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. A ``classifier`` takes its input from a pooler, if there is one."""
    return {**_ROLES, "classifier": Role.READS if getattr(base, "pooler", None) is None else Role.APART}


@plain("albert")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    layers = [model.get_submodule(f"{_LAYERS}.0")]
    sizes = [(layer.attention.dense.in_features, layer.ffn_output.in_features) for layer in layers]
    return with_one_width("intermediate_size", _LAYERS, sizes, model.config.hidden_size)
