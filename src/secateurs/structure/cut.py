"""``Kind``: what a unit is. ``Cut``: the slice of one parameter that is removed with a unit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Cut", "Kind"]


class Kind(StrEnum):
    """What one unit of a group is."""

    HEAD = "head"
    """An attention head: rows of q, k, v and columns of the output projection (under GQA one key-value head with
    its query heads)."""
    INTERMEDIATE = "intermediate"
    """A feed-forward neuron: a row of the up (and gate) projection and a column of the down projection."""
    HIDDEN = "hidden"
    """A dimension of the residual stream (of the hidden size)."""
    RANK = "rank"
    """A rank-1 component of a factorised linear layer."""
    INPUT = "input"
    """An input of a linear layer: one column of its matrix. The module that computes the input is not cut."""


@dataclass(frozen=True)
class Cut:
    """The slice of one parameter that is removed with a unit.

    Unit ``u`` owns the indices ``offset + u * width .. offset + (u + 1) * width - 1`` along ``dim``.

    Args:
        parameter: dotted name of the parameter, e.g. ``"bert.encoder.layer.0.output.dense.weight"``.
        dim: the axis that is cut. The transposed weight of a ``Conv1D`` only needs another ``dim``.
        width: number of indices per unit.
        offset: index at which unit 0 starts. A fused q|k|v projection has three cuts with three offsets.
    """

    parameter: str
    dim: int
    width: int = 1
    offset: int = 0
