"""DistilBERT: post-LN; the norms are modules of the layer, not of its sub-blocks."""

from __future__ import annotations

from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, family, plain, stream
from secateurs.structure.families._one_width import with_one_width
from secateurs.structure.structure import Group, Structure

__all__ = ["plain_config", "roles", "structure"]


@family("distilbert")
def structure(model: Any) -> Structure:
    """The heads and the feed-forward neurons of every layer."""
    groups: list[Group] = []
    for index, module in enumerate(model.transformer.layer):
        layer = f"transformer.layer.{index}"
        attention, ffn = f"{layer}.attention", f"{layer}.ffn"
        head = module.attention.attention_head_size
        heads = module.attention.out_lin.in_features // head
        if heads:
            projections = [f"{attention}.{name}" for name in ("q_lin", "k_lin", "v_lin")]
            groups.append(
                Group(
                    f"layer.{index}.heads",
                    Kind.HEAD,
                    heads,
                    cuts=(
                        *(Cut(f"{path}.{part}", 0, head) for path in projections for part in ("weight", "bias")),
                        Cut(f"{attention}.out_lin.weight", 1, head),
                    ),
                    output_projection=f"{attention}.out_lin",
                    block=attention,
                    layer=layer,
                    stream=f"{layer}.sa_layer_norm",
                    attributes={f"{attention}.n_heads": 1, f"{attention}.dim": head},
                )
            )
        neurons = module.ffn.lin2.in_features
        if neurons:
            groups.append(
                Group(
                    f"layer.{index}.intermediate",
                    Kind.INTERMEDIATE,
                    neurons,
                    cuts=(Cut(f"{ffn}.lin1.weight", 0), Cut(f"{ffn}.lin1.bias", 0), Cut(f"{ffn}.lin2.weight", 1)),
                    output_projection=f"{ffn}.lin2",
                    block=ffn,
                    layer=layer,
                    stream=f"{layer}.output_layer_norm",
                )
            )
    return Structure(tuple(groups))


_ROLES: Roles = {
    "embeddings.word_embeddings": Role.WRITES,
    "embeddings.position_embeddings": Role.WRITES,
    "embeddings.LayerNorm": Role.RENEWS,
    "transformer.layer.*.attention.q_lin": Role.READS,
    "transformer.layer.*.attention.k_lin": Role.READS,
    "transformer.layer.*.attention.v_lin": Role.READS,
    "transformer.layer.*.attention.out_lin": Role.WRITES,
    "transformer.layer.*.sa_layer_norm": Role.RENEWS,
    "transformer.layer.*.ffn.lin1": Role.READS,
    "transformer.layer.*.ffn.lin2": Role.WRITES,
    "transformer.layer.*.output_layer_norm": Role.RENEWS,
    "pre_classifier": Role.READS,
    "qa_outputs": Role.READS,
    "vocab_transform": Role.BRIDGES,
    "vocab_layer_norm": Role.RENEWS,
    "vocab_projector": Role.READS,
}


@stream("distilbert")
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream.

    A ``classifier`` of texts takes its input from ``pre_classifier``, a ``classifier`` of tokens takes it from the stream.
    """
    return {**_ROLES, "classifier": Role.APART if hasattr(model, "pre_classifier") else Role.READS}


@plain("distilbert")
def plain_config(model: Any) -> PlainConfig | None:
    """See ``with_one_width``."""
    sizes = [(one.attention.out_lin.in_features, one.ffn.lin2.in_features) for one in model.transformer.layer]
    return with_one_width("hidden_dim", "transformer.layer", sizes, model.config.dim)
