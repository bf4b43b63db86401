"""The stack of transformer layers, those in which nothing is left to prune among them."""

from __future__ import annotations

from torch import nn

from secateurs.structure import Structure

__all__ = ["layer_paths", "layer_size"]


def layer_paths(model: nn.Module, structure: Structure) -> tuple[str, ...]:
    """Paths of all the layers, in data order.

    A layer that was emptied earlier has no groups, hence no place in ``structure.layers``, and yet it computes: its
    biases and the norms behind its sums are still there.
    """
    holders = dict.fromkeys(path.rpartition(".")[0] for path in structure.layers if path)
    return tuple(f"{holder}.{name}" for holder in holders for name, _ in model.get_submodule(holder).named_children())


def layer_size(model: nn.Module, structure: Structure) -> int:
    """Parameters of all the layers, norms included; embeddings, pooler, head and what stands behind the last layer not.

    CoFi's authors evaluate sparsity on this count: 85,054,464 for BERT-base.

    Args:
        model: the model of ``structure``, or what became of it: modules keep their places.
    """
    layers = [model.get_submodule(path) for path in layer_paths(model, structure)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())
