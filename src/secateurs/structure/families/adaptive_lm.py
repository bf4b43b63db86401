"""Adaptive language models: the layers of Llama, and embeddings with one width per cluster of words.

A unit of a cluster's width is a column of its table and a column of its projection. The projection is applied to the rows
of the table, so a gate or a zero in a column of the projection acts on the embeddings, and on the softmax too where the two
are tied. One mask therefore serves both, and each parameter counts once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import PlainConfig, Role, Roles, embeddings, family, llama, plain, stream
from secateurs.structure.structure import Group, Structure

__all__ = ["embedding_groups", "plain_config", "roles", "structure"]

TYPE = "secateurs-adaptive-lm"


@family(TYPE)
def structure(model: Any) -> Structure:
    """The groups of the layers, as in Llama."""
    return llama.structure(model)


@embeddings(TYPE)
def embedding_groups(model: Any) -> Structure:
    """One group for every cluster of width above 0. The tables of a softmax that is not tied are not cut."""
    groups = []
    for index, cluster in enumerate(model.embed_tokens.clusters):
        path = f"embed_tokens.clusters.{index}"
        if width := cluster.table.embedding_dim:
            groups.append(
                Group(
                    f"embeddings.{index}.rank",
                    Kind.RANK,
                    width,
                    cuts=(Cut(f"{path}.table.weight", 1), Cut(f"{path}.projection.linear.weight", 1)),
                    output_projection=f"{path}.projection.linear",
                    block=f"{path}.projection",
                    layer="",
                    stream="layers.0.input_layernorm" if len(model.layers) else "norm",
                )
            )
    return Structure(tuple(groups))


@stream(TYPE)
def roles(base: Any, model: Any) -> Roles:
    """How the modules use the residual stream: as in Llama, with the projections in the place of the embeddings.

    A tied softmax multiplies the stream with the projections of the embeddings; a softmax that is not tied has projections
    of its own.
    """
    own = {name: role for name, role in llama.roles(base, model).items() if name not in ("embed_tokens", "lm_head")}
    return {
        **own,
        "embed_tokens.clusters.*.table": Role.APART,
        "embed_tokens.clusters.*.projection.linear": Role.WRITES,
        "lm_head": Role.APART,
        "lm_head.tails": Role.READS,
        "lm_head.clusters.*.table": Role.APART,
        "lm_head.clusters.*.projection.linear": Role.WRITES,  # used transposed: its rows are its inputs
    }


@plain(TYPE)
def plain_config(model: Any) -> PlainConfig | None:
    """The config fields of Llama, and the width of every cluster."""
    found = llama.plain_config(model)
    if found is None or model.config.hidden_size % found.changes["num_attention_heads"]:
        return None
    sizes = [cluster.table.embedding_dim for cluster in model.embed_tokens.clusters]
    return replace(found, changes={**found.changes, "embedding_sizes": sizes})
