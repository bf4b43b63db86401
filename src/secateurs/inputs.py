"""Inputs of linear layers as units: ``y = W diag(z) x + b``, where a layer reads fewer of what others compute.

A column of the matrix goes with its input, and nothing else: the input itself may be read elsewhere. A layer that was cut
so *selects* its inputs before it multiplies, which takes time of its own (``secateurs.modeling_pruned.Selected``).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.factorize import matrices
from secateurs.modeling_pruned import is_factored
from secateurs.structure import Cut, Group, Kind, Structure

__all__ = ["input_groups"]


def input_groups(model: nn.Module, which: str = "all") -> Structure:
    """The inputs of every matrix that is one, one group a matrix.

    Args:
        model: a transformers model.
        which: see ``secateurs.factorize.matrices``.

    Raises:
        UnsupportedModelError: all of the matrices are pairs of factors.
        RecipeError: a pattern names no matrix.
    """
    groups = []
    for path, group in matrices(model, which).items():
        module: Any = model.get_submodule(path)
        if is_factored(module):
            continue
        columns = 0 if hasattr(module, "nf") else 1
        place = group.name.rpartition(".")[0]
        groups.append(
            Group(
                f"{place}.{path.removeprefix(group.layer + '.')}.inputs",
                Kind.INPUT,
                module.weight.shape[columns],
                cuts=(Cut(f"{path}.weight", columns),),
                reader=path,
                block=path,
                layer=group.layer,
                stream=group.stream,
            )
        )
    if not groups:
        raise UnsupportedModelError(
            f"every matrix of this {type(model).__name__} is a pair of factors; prune their ranks (flop, agp), not inputs"
        )
    return Structure(tuple(groups))
