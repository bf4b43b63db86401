"""Adaptive language models: Llama's layers, and the width of every cluster of the embeddings.

A dimension of a cluster's width is a column of its table and a column of its projection. The projection reads the
table, so whatever is folded into its columns, a gate or a zero, acts on the embeddings and, where they are tied, on the
softmax as well: one mask for both, and each parameter is counted once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateurs.families import Plain, Role, Roles, embeddings, family, llama, plain, stream
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["roles", "same_everywhere", "structure", "widths"]

TYPE = "secateurs-adaptive-lm"

structure = family(TYPE)(llama.structure)


@embeddings(TYPE)
def widths(model: Any) -> Structure:
    """One group a cluster that has any width left. A softmax that is not tied keeps its own tables as they are."""
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
                    reader=f"{path}.projection.linear",
                    block=f"{path}.projection",
                    layer="",
                    stream="layers.0.input_layernorm" if len(model.layers) else "norm",
                )
            )
    return Structure(tuple(groups))


@stream(TYPE)
def roles(base: Any, model: Any) -> Roles:
    """As in Llama, with projections in the place of the embeddings. The tied softmax reads the stream through them; one
    of its own reads it through its own."""
    own = {name: role for name, role in llama.roles(base, model).items() if name not in ("embed_tokens", "lm_head")}
    return {
        **own,
        "embed_tokens.clusters.*.table": Role.APART,
        "embed_tokens.clusters.*.projection.linear": Role.WRITES,
        "lm_head": Role.APART,
        "lm_head.tails": Role.READS,
        "lm_head.clusters.*.table": Role.APART,
        "lm_head.clusters.*.projection.linear": Role.WRITES,  # transposed there: its rows are what it reads
    }


@plain(TYPE)
def same_everywhere(model: Any) -> Plain | None:
    """What Llama's config can say, and any width of a cluster."""
    found = llama.same_everywhere(model)
    if found is None or model.config.hidden_size % found.changes["num_attention_heads"]:
        return None
    sizes = [cluster.table.embedding_dim for cluster in model.embed_tokens.clusters]
    return replace(found, changes={**found.changes, "embedding_sizes": sizes})
