"""What methods that prune ranks have in common: which matrices are pairs of factors, and what of them may go."""

from __future__ import annotations

import copy

from torch import nn

from secateurs.factorize import factorize, matrices, rank_groups
from secateurs.families import discover
from secateurs.structure import Group, Kind, Structure

__all__ = ["components", "widths", "with_pairs"]


def with_pairs(model: nn.Module, which: str) -> nn.Module:
    """A copy in which these matrices are pairs of factors of full rank; pairs that are there already stay as they are.

    Args:
        model: computes the same afterwards.
        which: see ``secateurs.factorize.matrices``.
    """
    rebuilt = copy.deepcopy(model)
    factorize(rebuilt, matrices(rebuilt, which))
    return rebuilt


def components(model: nn.Module, which: str) -> Structure:
    """Every component of the pairs and, where all matrices are chosen, every dimension of adaptive embeddings."""
    return Structure((*widths(model, which), *rank_groups(model, which)))


def widths(model: nn.Module, which: str) -> tuple[Group, ...]:
    """The widths of adaptive embeddings, where all matrices are chosen and there are any."""
    if which != "all":
        return ()
    return tuple(group for group in discover(model, embeddings=True) if group.kind is Kind.RANK)
