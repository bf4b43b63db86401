"""The stack of transformer layers, those in which nothing is left to prune among them."""

from __future__ import annotations

from torch import nn

from secateurs.structure import Structure

__all__ = ["layer_paths"]


def layer_paths(model: nn.Module, structure: Structure) -> tuple[str, ...]:
    """Paths of all the layers, in data order.

    A layer that was emptied earlier has no groups, hence no place in ``structure.layers``, and yet it computes: its
    biases and the norms behind its sums are still there.
    """
    holders = dict.fromkeys(path.rpartition(".")[0] for path in structure.layers if path)
    return tuple(f"{holder}.{name}" for holder in holders for name, _ in model.get_submodule(holder).named_children())
