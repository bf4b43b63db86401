"""Zeros in tensors of full size: what unstructured pruning leaves behind."""

from __future__ import annotations

from torch import nn

from secateurs.structure import Structure

__all__ = ["share_of_zeros"]


def share_of_zeros(model: nn.Module, structure: Structure) -> float:
    """The part of the entries of all cut parameters that are exactly 0.

    Args:
        model: of the structure, dense or shrunk; pairs of factors may be one matrix by now.
        structure: names the parameters.
    """
    named = dict(model.named_parameters())
    names = {cut.parameter for group in structure for cut in group.cuts}
    names |= {f"{group.product}.weight" for group in structure if group.product}
    values = [named[name].detach() for name in names if name in named]
    entries = sum(value.numel() for value in values)
    return sum(int((value == 0).sum()) for value in values) / entries if entries else 0.0
