"""DistilBERT: post-LN, the norms belong to the layer."""

from __future__ import annotations

from typing import Any

from secateurs.families import Plain, Role, Roles, family, plain, stream
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["roles", "same_width", "structure"]


@family("distilbert")
def structure(model: Any) -> Structure:
    """Heads and feed-forward neurons of every layer."""
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
                    reader=f"{attention}.out_lin",
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
                    reader=f"{ffn}.lin2",
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
    """A ``classifier`` of whole texts stands on ``pre_classifier``, one of tokens on the stream."""
    return {**_ROLES, "classifier": Role.APART if hasattr(model, "pre_classifier") else Role.READS}


@plain("distilbert")
def same_width(model: Any) -> Plain | None:
    """One feed-forward width and every head: the config has no head size, and an emptied layer still norms."""
    widths = {layer.ffn.lin2.in_features for layer in model.transformer.layer}
    if (
        len(widths) != 1
        or 0 in widths
        or any(layer.attention.out_lin.in_features < model.config.dim for layer in model.transformer.layer)
    ):
        return None
    return Plain({"hidden_dim": widths.pop()}, "transformer.layer", tuple(range(len(model.transformer.layer))))
