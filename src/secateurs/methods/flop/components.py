"""The components of matrices: which matrices are pairs of factors, and what of them may be removed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.factorize import factorize, matrices, rank_groups

__all__ = ["component_groups", "embedding_widths", "order_embedding_widths", "with_pairs"]


def with_pairs(model: nn.Module, which: str, *, init: str = "svd", rank: int | None = None) -> nn.Module:
    """A copy in which the chosen matrices are pairs of factors; existing pairs stay as they are.

    Args:
        model: a transformers model. With full rank and ``init="svd"`` the copy has the same outputs.
        which: see ``secateurs.surgery.factorize.matrices``.
        init: see ``secateurs.surgery.factorize.factorize``.
        rank: components per pair; ``None`` = all.

    Raises:
        RecipeError: a pattern names no matrix, or the rank is larger than that of a matrix.
        UnsupportedModelError: there are no matrices.
    """
    paths = matrices(model, which)
    copied = copy.deepcopy(model)
    factorize(copied, paths, init=init, rank=rank)
    order_embedding_widths(copied, which)
    return copied


def component_groups(model: nn.Module, which: str) -> Structure:
    """The components of every pair and, if all matrices are chosen, the dimensions of adaptive embeddings."""
    return Structure((*embedding_widths(model, which), *rank_groups(model, which)))


@torch.no_grad()
def order_embedding_widths(model: nn.Module, which: str) -> None:
    """Rotate the dimensions of adaptive embeddings, in place, to the components of ``E_i A_i^T`` in order of strength.

    After training all dimensions of a cluster are equally strong. Their gates would close together and remove the whole
    cluster, although a few dimensions could keep most of it. The outputs of the model and of its tied softmax do not change.
    """
    for group in embedding_widths(model, which):
        table, projection = (model.get_parameter(cut.parameter) for cut in group.cuts)  # words x width, hidden x width
        if group.size > min(len(table), len(projection)):
            continue  # the width is larger than the rank
        words, there = torch.linalg.qr(table.double())
        hidden, back = torch.linalg.qr(projection.double())
        left, strengths, right = torch.linalg.svd(there @ back.T)
        root = strengths.sqrt()
        table.copy_(words @ (left * root))
        projection.copy_(hidden @ (right.T * root))


def embedding_widths(model: nn.Module, which: str) -> tuple[Group, ...]:
    """The widths of adaptive embeddings, if all matrices are chosen and the model has such embeddings."""
    if which != "all":
        return ()
    return tuple(group for group in discover(model, embeddings=True) if group.kind is Kind.RANK)
