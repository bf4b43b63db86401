"""The groups of the most common sub-blocks, for family files to build on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group

__all__ = ["attention_groups", "feed_forward_groups", "fused_heads"]

Rows = Sequence[tuple[str, int, int]]
"""Name of an input projection or of a norm, its rows per unit, and the row where unit 0 starts."""


def attention_groups(
    model: Any,
    index: int,
    attention: str,
    output: str = "o_proj",
    *,
    layer: str,
    fused: str = "",
    joint_norms: tuple[str, str] | tuple[()] = (),
    **fields: Any,
) -> list[Group]:
    """The heads of an attention; no group if none is left.

    One unit is a key-value head with its query heads, so their ratio never changes.

    Args:
        model: the base model.
        index: index of the layer.
        attention: path of the attention module, which has ``q_proj``, ``k_proj`` and ``v_proj``.
        output: name of its output projection.
        layer: path of the layer.
        fused: name of the one projection whose outputs are all queries, then all keys, then all values.
        joint_norms: names of a norm over the queries of all heads and of one over the keys of all heads.
        fields: other fields of the group: ``stream``, ``norms``, ``attributes``, ...
    """
    attn = model.get_submodule(attention)
    keys = attn.head_dim
    queries = getattr(attn, "num_key_value_groups", 1) * keys
    heads = getattr(attn, output).in_features // queries
    rows = [("q_proj", queries, 0), ("k_proj", keys, 0), ("v_proj", keys, 0)]
    if fused:
        rows = [(fused, queries, 0), (fused, keys, heads * queries), (fused, keys, heads * (queries + keys))]
    rows += [(norm, width, 0) for norm, width in zip(joint_norms, (queries, keys), strict=False)]
    fields["joint_norms"] = tuple(f"{attention}.{norm}" for norm in joint_norms)
    return _groups(
        model, f"layer.{index}.heads", Kind.HEAD, heads, attention, rows, (output, queries), attention, layer, fields
    )


def fused_heads(
    model: Any,
    index: int,
    attention: str,
    inputs: tuple[str, int],
    output: tuple[str, int],
    *,
    layer: str,
    **fields: Any,
) -> list[Group]:
    """The heads of an attention whose one input projection has its rows ordered by head; no group if none is left.

    Args:
        model: the base model.
        index: index of the layer.
        attention: path of the attention module.
        inputs: name of the input projection, and its rows per unit.
        output: name of the output projection, and its columns per unit.
        layer: path of the layer.
        fields: other fields of the group: ``stream``, ``norms``, ``attributes``, ...
    """
    heads = model.get_submodule(f"{attention}.{output[0]}").in_features // output[1]
    name = f"layer.{index}.heads"
    return _groups(model, name, Kind.HEAD, heads, attention, [(*inputs, 0)], output, attention, layer, fields)


def feed_forward_groups(
    model: Any,
    index: int,
    mlp: str,
    inputs: Sequence[str] = ("gate_proj", "up_proj"),
    output: str = "down_proj",
    *,
    layer: str,
    block: str = "",
    fused: str = "",
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
        fused: name of the one projection whose outputs are all gates, then all values.
        fields: other fields of the group: ``stream``, ``norms``, ...
    """
    neurons = model.get_submodule(f"{mlp}.{output}").in_features
    rows = [(fused, 1, 0), (fused, 1, neurons)] if fused else [(name, 1, 0) for name in inputs]
    name = f"layer.{index}.intermediate"
    return _groups(model, name, Kind.INTERMEDIATE, neurons, mlp, rows, (output, 1), block or mlp, layer, fields)


def _groups(
    model: Any,
    name: str,
    kind: Kind,
    size: int,
    path: str,
    rows: Rows,
    output: tuple[str, int],
    block: str,
    layer: str,
    fields: Mapping[str, Any],
) -> list[Group]:
    """One group, or none if it has no units: rows of the input projections, then columns of the output projection."""
    if not size:
        return []
    biased = [row for row in rows if getattr(model.get_submodule(f"{path}.{row[0]}"), "bias", None) is not None]
    cuts = (
        *(Cut(f"{path}.{part}.weight", 0, width, start) for part, width, start in rows),
        *(Cut(f"{path}.{part}.bias", 0, width, start) for part, width, start in biased),
        Cut(f"{path}.{output[0]}.weight", 1, output[1]),
    )
    return [Group(name, kind, size, cuts, f"{path}.{output[0]}", block, layer, **fields)]
