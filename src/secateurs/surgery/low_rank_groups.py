"""Low-rank options: a matrix of a sub-block may be factorised at a lower rank instead of losing heads or neurons.

The options are groups of ranks in the structure of the dense model. Their matrices are factorised only when a mask keeps
some of their ranks and not all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from secateurs.errors import RecipeError
from secateurs.modeling.pruned_modules import is_factored
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.factorize import factorize, matrices, rank_group

__all__ = ["apply_low_rank_options", "with_low_rank_options"]


def with_low_rank_options(model: nn.Module, which: str = "all") -> Structure:
    """The groups of ``discover``, followed by a group of ranks for every matrix that is not a pair of factors yet.

    The matrices in ``Group.memory`` (k and v of a cross-attention) have no such group.

    Args:
        model: a transformers model.
        which: the matrices, see ``secateurs.surgery.factorize.matrices``.

    Raises:
        UnsupportedModelError: the model has no such matrices.
        RecipeError: a pattern matches no matrix.
    """
    structure = discover(model)
    groups = list(structure)
    for path, group in matrices(model, which).items():
        module: Any = model.get_submodule(path)
        if not is_factored(module) and path not in group.memory:  # the moments of a group are those of its own stream
            groups.append(replace(rank_group(path, group, min(module.weight.shape)), instead_of=group.name))
    return Structure(tuple(groups), structure.stream)


def apply_low_rank_options(model: nn.Module, structure: Structure, mask: Mask, *, values: bool = True) -> None:
    """Replace, in place, every matrix of which the mask drops some ranks by a pair of factors of full rank.

    The components come in falling order of strength. If a matrix already is a product of as few components as the mask
    keeps, keeping the first ones is exact.

    Args:
        model: the model of ``structure``.
        structure: groups with low-rank options.
        mask: the units kept.
        values: compute the factors of each matrix. Without it the factors are random, which takes no time.

    Raises:
        RecipeError: the mask also drops units of the group that cuts the matrix otherwise.
    """
    for group in structure.low_rank_options:
        if mask[group.name].all() or is_factored(model.get_submodule(group.product)):
            continue
        if not mask[group.instead_of].all():
            raise RecipeError(
                f"the mask cuts both {group.instead_of} and {group.name}; one of the two must stay at full size"
            )
        if values:
            factorize(model, [group.product])
        else:
            factorize(model, [group.product], init="scratch", rank=group.size)
