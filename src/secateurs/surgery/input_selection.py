"""Inputs of linear layers as units: ``y = W diag(z) x + b``, where a layer uses only some of its inputs.

Removing an input removes one column of the matrix and nothing else, because other layers may use the same input. A pruned
layer therefore *selects* its inputs before the multiplication, which takes extra time
(``secateurs.modeling.pruned_modules.SelectedLinear``).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.modeling.pruned_modules import is_factored
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.factorize import matrices

__all__ = ["input_groups"]


def input_groups(model: nn.Module, which: str = "all") -> Structure:
    """The inputs of every matrix that is not a pair of factors, one group per matrix.

    Args:
        model: a transformers model.
        which: the matrices, see ``secateurs.surgery.factorize.matrices``.

    Raises:
        UnsupportedModelError: every matrix is a pair of factors, or the model has no matrices.
        RecipeError: a pattern matches no matrix.
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
                output_projection=path,
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
