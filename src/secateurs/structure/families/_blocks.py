"""The groups of the two most common sub-blocks, for family files to build on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateurs.structure.structure import Cut, Group, Kind

__all__ = ["attention_groups", "feed_forward_groups"]


def attention_groups(
    model: Any, index: int, attention: str, output: str = "o_proj", *, layer: str, **fields: Any
) -> list[Group]:
    """The heads of an attention with the projections ``q_proj``, ``k_proj`` and ``v_proj``; no group if none is left.

    One unit is a key-value head with its query heads, so their ratio never changes.

    Args:
        model: the base model.
        index: index of the layer.
        attention: path of the attention module.
        output: name of its output projection.
        layer: path of the layer.
        fields: other fields of the group: ``stream``, ``norms``, ``attributes``, ...
    """
    attn = model.get_submodule(attention)
    heads = attn.k_proj.out_features // attn.head_dim
    queries = getattr(attn, "num_key_value_groups", 1) * attn.head_dim
    rows = {"q_proj": queries, "k_proj": attn.head_dim, "v_proj": attn.head_dim}
    return _group(
        model, f"layer.{index}.heads", Kind.HEAD, heads, attention, rows, output, queries, attention, layer, fields
    )


def feed_forward_groups(
    model: Any,
    index: int,
    mlp: str,
    inputs: Sequence[str] = ("gate_proj", "up_proj"),
    output: str = "down_proj",
    *,
    layer: str,
    block: str = "",
    **fields: Any,
) -> list[Group]:
    """The neurons of a feed-forward block; no group if none is left.

    Args:
        model: the base model.
        index: index of the layer.
        mlp: path of the module that holds the projections.
        inputs: names of the projections with one row per neuron.
        output: name of the output projection.
        layer: path of the layer.
        block: path of the module that computes the neurons; empty = ``mlp``.
        fields: other fields of the group: ``stream``, ``norms``, ...
    """
    neurons = model.get_submodule(f"{mlp}.{output}").in_features
    rows = dict.fromkeys(inputs, 1)
    name = f"layer.{index}.intermediate"
    return _group(model, name, Kind.INTERMEDIATE, neurons, mlp, rows, output, 1, block or mlp, layer, fields)


def _group(
    model: Any,
    name: str,
    kind: Kind,
    size: int,
    path: str,
    rows: Mapping[str, int],
    output: str,
    columns: int,
    block: str,
    layer: str,
    fields: Mapping[str, Any],
) -> list[Group]:
    """One group, or none if it has no units: rows of the input projections, then columns of the output projection."""
    if not size:
        return []
    biased = [part for part in rows if model.get_submodule(f"{path}.{part}").bias is not None]
    cuts = (
        *(Cut(f"{path}.{part}.weight", 0, width) for part, width in rows.items()),
        *(Cut(f"{path}.{part}.bias", 0, rows[part]) for part in biased),
        Cut(f"{path}.{output}.weight", 1, columns),
    )
    return [Group(name, kind, size, cuts, f"{path}.{output}", block, layer, **fields)]
