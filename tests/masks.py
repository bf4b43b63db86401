"""Masks that several test files use."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import Tensor

from secateurs.structure.cut import Kind
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure

__all__ = ["only_stream", "two_blocks_removed", "uneven", "without_blocks"]


def uneven(structure: Structure) -> Mask:
    """Drop a third of the units of every group and of the stream, and another third than in the group before."""
    return Mask(
        {name: torch.arange(size) % 3 != place % 3 for place, (name, size) in enumerate(structure.sizes.items())}
    )


def two_blocks_removed(structure: Structure) -> Mask:
    """Drop a third of all units, and also the first attention block and the second feed-forward block, if there is one."""
    kept = {name: torch.arange(size) % 3 != 1 for name, size in structure.sizes.items()}
    heads = [group.name for group in structure if group.kind is Kind.HEAD]
    widths = [group.name for group in structure if group.kind is Kind.INTERMEDIATE]
    for name in (heads[0], *widths[1:2]):  # ALBERT has one feed-forward block
        kept[name][:] = False
    return Mask(kept)


def without_blocks(structure: Structure, kind: Kind | None, layers: Set[int]) -> Mask:
    """Drop all groups of one kind (``None`` = of every kind) in some layers, and a third of all other units.

    Args:
        structure: the groups.
        kind: kind of the groups.
        layers: indices of the layers.
    """
    order = list(structure.layers)
    kept = {}
    for group in structure:
        gone = order.index(group.layer) in layers and kind in (None, group.kind)
        kept[group.name] = torch.arange(group.size) % 3 != len(kept) % 3 if not gone else torch.zeros(group.size).bool()
    return Mask(kept)


def only_stream(structure: Structure, kept: Callable[[Tensor], Tensor]) -> Mask:
    """Keep every unit of the groups, and some dimensions of the stream.

    Args:
        structure: groups and a stream.
        kept: indices of all dimensions -> which of them are kept.
    """
    stream = structure.stream
    assert stream is not None
    return Mask({**Mask.full(structure).kept, stream.name: kept(torch.arange(stream.size))})
