"""The stacks of transformer layers, including layers that have nothing left to prune. An encoder-decoder has two."""

from __future__ import annotations

from torch import nn

from secateurs.structure.structure import Structure

__all__ = ["layer_paths", "layer_size", "stacks"]


def layer_paths(model: nn.Module, structure: Structure) -> tuple[str, ...]:
    """Paths of all layers, in data order.

    A layer that was emptied by an earlier pruning has no groups, so it is not in ``structure.layers``. It still computes:
    its biases and its post-LN norms remain. Such layers are found as siblings of the layers in ``structure.layers``.

    Args:
        model: the model of ``structure``.
        structure: the groups of the model.

    Returns:
        Dotted module names.
    """
    return tuple(path for stack in stacks(model, structure) for path in stack)


def stacks(model: nn.Module, structure: Structure) -> tuple[tuple[str, ...], ...]:
    """Paths of all layers of each stack: every layer hands its output to the next one of its stack.

    A stack from which everything was pruned is left out: it computes the same in every model that is pruned further.

    Args:
        model: the model of ``structure``.
        structure: the groups of the model.

    Returns:
        Dotted module names, stack by stack, in data order.
    """
    holders = dict.fromkeys(path.rpartition(".")[0] for path in structure.layers if path)
    children = {holder: [name for name, _ in model.get_submodule(holder).named_children()] for holder in holders}
    return tuple(tuple(f"{holder}.{name}" for name in names) for holder, names in children.items())


def layer_size(model: nn.Module, structure: Structure) -> int:
    """Number of parameters of all layers, norms included.

    Embeddings, pooler, head and the modules after the last layer do not count. CoFi's authors compute their sparsity from
    this number: 85,054,464 for BERT-base.

    Args:
        model: the model of ``structure``, or the model that was pruned from it; module paths stay the same.
        structure: the groups of the model.
    """
    layers = [model.get_submodule(path) for path in layer_paths(model, structure)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())
