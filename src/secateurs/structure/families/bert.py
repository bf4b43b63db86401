"""BERT and the encoders with the same layout: post-LN, biases in every projection, a norm after each output projection."""

from __future__ import annotations

from typing import Any

from secateurs.errors import UnsupportedModelError
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]

_TYPES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "ernie",
    "data2vec-text",
    "bert-generation",
    "roformer",
    "roc_bert",
)


@family(*_TYPES)
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    if getattr(model.config, "add_cross_attention", False):
        raise UnsupportedModelError(f"{model.config.model_type} with cross-attention cannot be pruned; use one without")
    groups: list[Group] = []
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
                    stream=f"{output}.LayerNorm",
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
                    stream=f"{layer}.output.LayerNorm",
                )
            )
    return Structure(tuple(groups))


_ENCODER: Roles = {
    "encoder.embed_positions": Role.APART,
    "encoder.layer.*.attention.self.query": Role.READS,
    "encoder.layer.*.attention.self.key": Role.READS,
    "encoder.layer.*.attention.self.value": Role.READS,
    "encoder.layer.*.attention.output.dense": Role.WRITES,
    "encoder.layer.*.attention.output.LayerNorm": Role.RENEWS,
    "encoder.layer.*.intermediate.dense": Role.READS,
    "encoder.layer.*.output.dense": Role.WRITES,
    "encoder.layer.*.output.LayerNorm": Role.RENEWS,
    "pooler.dense": Role.POOLS,
}
_HEADS: Roles = {
    "qa_outputs": Role.READS,
    "classifier.dense": Role.READS,
    "classifier.out_proj": Role.APART,
    "sequence_summary.summary": Role.READS,
    "discriminator_predictions.dense": Role.READS,
    "discriminator_predictions.dense_prediction": Role.APART,
    "cls.predictions": Role.APART,
    "cls.predictions.transform.dense": Role.BRIDGES,
    "cls.predictions.transform.LayerNorm": Role.RENEWS,
    "cls.predictions.decoder": Role.READS,
    "cls.seq_relationship": Role.APART,
    "lm_head": Role.APART,
    "lm_head.dense": Role.BRIDGES,
    "lm_head.layer_norm": Role.RENEWS,
    "lm_head.decoder": Role.READS,
}
_NARROW: Roles = {
    "cls.predictions.transform.dense": Role.READS,
    "cls.predictions.transform.LayerNorm": Role.APART,
    "cls.predictions.decoder": Role.APART,
}
_EMBEDDINGS = tuple(f"embeddings.{part}_embeddings" for part in ("word", "position", "token_type", "task_type"))
_INPUTS = ("embeddings.word_embeddings", "embeddings.pronunciation_embed", "embeddings.shape_embed")


@stream(*_TYPES)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream; some of the roles depend on the model.

    The embeddings of ELECTRA and RoFormer may have a size other than the hidden size; they are then projected to the hidden
    size. RoCBert projects words, pronunciations and shapes together. A single ``classifier`` layer takes its input from the
    pooler or from a summary, if the model has one.
    """
    pooled = getattr(base, "pooler", None) is not None or hasattr(model, "sequence_summary")
    narrow = hasattr(base, "embeddings_project")
    joined = getattr(base.embeddings, "map_inputs_layer", None) is not None
    return {
        **_ENCODER,
        **_HEADS,
        **(_NARROW if narrow or joined else {}),
        **dict.fromkeys(_EMBEDDINGS, Role.APART if narrow else Role.WRITES),
        **dict.fromkeys(_INPUTS, Role.APART if narrow or joined else Role.WRITES),
        "embeddings.map_inputs_layer": Role.WRITES,
        "embeddings.LayerNorm": Role.APART if narrow else Role.RENEWS,
        "embeddings_project": Role.WRITES,
        "generator_predictions.dense": Role.READS if narrow else Role.BRIDGES,
        "generator_predictions.LayerNorm": Role.APART if narrow else Role.RENEWS,
        "generator_lm_head": Role.APART if narrow else Role.READS,
        "classifier": Role.APART if pooled else Role.READS,
    }


@plain(*_TYPES)
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.output.dense.in_features, one.output.dense.in_features) for one in model.encoder.layer]
    return with_one_width("intermediate_size", "encoder.layer", sizes, model.config.hidden_size)
