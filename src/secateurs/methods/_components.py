"""What methods that prune ranks have in common: which matrices are pairs of factors, and what of them may go."""

from __future__ import annotations

import copy

import torch
from torch import nn

from secateurs.factorize import factorize, matrices, rank_groups
from secateurs.families import discover
from secateurs.structure import Group, Kind, Structure

__all__ = ["components", "strongest_first", "widths", "with_pairs"]


def with_pairs(model: nn.Module, which: str) -> nn.Module:
    """A copy in which these matrices are pairs of factors of full rank; pairs that are there already stay as they are.

    Args:
        model: computes the same afterwards.
        which: see ``secateurs.factorize.matrices``.
    """
    rebuilt = copy.deepcopy(model)
    factorize(rebuilt, matrices(rebuilt, which))
    strongest_first(rebuilt, which)
    return rebuilt


def components(model: nn.Module, which: str) -> Structure:
    """Every component of the pairs and, where all matrices are chosen, every dimension of adaptive embeddings."""
    return Structure((*widths(model, which), *rank_groups(model, which)))


@torch.no_grad()
def strongest_first(model: nn.Module, which: str) -> None:
    """Turn the dimensions of adaptive embeddings, in place, into the components of ``E_i A_i^T``, in order of strength.

    Training leaves all dimensions of a cluster alike: gates that feel the same close together, and a whole cluster goes
    where a few dimensions would have said most of it. The model computes the same, and so does its tied softmax.
    """
    for group in widths(model, which):
        table, projection = (model.get_parameter(cut.parameter) for cut in group.cuts)  # words x width, hidden x width
        if group.size > min(len(table), len(projection)):
            continue  # wider than its rank: there are not so many components
        words, there = torch.linalg.qr(table.double())
        hidden, back = torch.linalg.qr(projection.double())
        left, strengths, right = torch.linalg.svd(there @ back.T)
        root = strengths.sqrt()
        table.copy_(words @ (left * root))
        projection.copy_(hidden @ (right.T * root))


def widths(model: nn.Module, which: str) -> tuple[Group, ...]:
    """The widths of adaptive embeddings, where all matrices are chosen and there are any."""
    if which != "all":
        return ()
    return tuple(group for group in discover(model, embeddings=True) if group.kind is Kind.RANK)
