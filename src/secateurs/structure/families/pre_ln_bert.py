"""Encoders with the modules of BERT and pre-LN: ESM, Megatron-BERT, RoBERTa-PreLayerNorm, XLM-RoBERTa-XL.

They differ from each other in the names of the norms.
"""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

_NORMS = {
    "esm": ("attention.LayerNorm", "LayerNorm", "encoder.emb_layer_norm_after"),
    "megatron-bert": ("attention.ln", "ln", "encoder.ln"),
    "roberta-prelayernorm": ("attention.LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
    "xlm-roberta-xl": ("attention.self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
}
"""Model type -> the norms before the attention and before the feed-forward block of a layer, and after the last layer."""


@family(*_NORMS)
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    if getattr(model.config, "add_cross_attention", False):
        raise UnsupportedModelError(f"{model.config.model_type} with cross-attention cannot be pruned; use one without")
    before_attention, before_feed_forward, final = _NORMS[model.config.model_type]
    groups: list[Group] = []
    last = len(model.encoder.layer) - 1
    for index, module in enumerate(model.encoder.layer):
        layer = f"encoder.layer.{index}"
        attention, output = f"{layer}.attention.self", f"{layer}.attention.output"
        head = module.attention.self.attention_head_size
        heads = module.attention.output.dense.in_features // head
        if heads:
            projections = [f"{attention}.{name}" for name in ("query", "key", "value")]
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{path}.{part}", 0, head) for path in projections for part in ("weight", "bias")),
                        Cut(f"{output}.dense.weight", 1, head),
                    ),
                    output_projection=f"{output}.dense",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.{before_feed_forward}",
                    norms=(f"{layer}.{before_attention}",),
                    attributes={f"{attention}.num_attention_heads": 1, f"{attention}.all_head_size": head},
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
                    stream=f"encoder.layer.{index + 1}.{before_attention}" if index < last else final,
                    norms=(f"{layer}.{before_feed_forward}",),
                )
            )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embeddings.word_embeddings": Role.WRITES,
    "embeddings.position_embeddings": Role.WRITES,
    "embeddings.token_type_embeddings": Role.WRITES,
    "embeddings.LayerNorm": Role.RENEWS,
    "embeddings.layer_norm": Role.RENEWS,
    "encoder.layer.*.attention.self.query": Role.READS,
    "encoder.layer.*.attention.self.key": Role.READS,
    "encoder.layer.*.attention.self.value": Role.READS,
    "encoder.layer.*.attention.output.dense": Role.WRITES,
    "encoder.layer.*.intermediate.dense": Role.READS,
    "encoder.layer.*.output.dense": Role.WRITES,
    "contact_head.regression": Role.APART,
    "pooler.dense": Role.POOLS,
    "qa_outputs": Role.READS,
    "classifier.dense": Role.READS,
    "classifier.out_proj": Role.APART,
    "lm_head": Role.APART,
    "lm_head.dense": Role.BRIDGES,
    "lm_head.layer_norm": Role.RENEWS,
    "lm_head.decoder": Role.READS,
    "cls.predictions": Role.APART,
    "cls.predictions.transform.dense": Role.BRIDGES,
    "cls.predictions.transform.LayerNorm": Role.RENEWS,
    "cls.predictions.decoder": Role.READS,
    "cls.seq_relationship": Role.APART,
}


@stream(*_NORMS)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream. A single ``classifier`` layer takes its input from a pooler, if any."""
    *inside, final = _NORMS[base.config.model_type]
    return {
        **_ROLES,
        **{f"encoder.layer.*.{norm}": Role.NORMS for norm in inside},
        final: Role.NORMS,
        "classifier": Role.READS if getattr(base, "pooler", None) is None else Role.APART,
    }


@plain(*_NORMS)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.output.dense.in_features, one.output.dense.in_features) for one in model.encoder.layer]
    return with_one_width("intermediate_size", "encoder.layer", sizes, model.config.hidden_size)
