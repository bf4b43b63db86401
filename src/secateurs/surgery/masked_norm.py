"""Masked norms: norms over the kept dimensions of the residual stream, or over the kept units of a group.

They equal the norms of the shrunk model.

A dimension of zeros changes the mean and the variance of an ordinary norm, so zeroing a dimension is not the same as cutting
it. A masked norm computes its statistics over the kept dimensions only and outputs zeros in the others. The module and its
parameters stay the same objects, so that ``torch.func.functional_call`` can replace the parameters. ``unmask_norm`` undoes
the change.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from secateurs.errors import UnsupportedModelError
from secateurs.modeling.hf_classes import is_norm
from secateurs.modeling.pruned_modules import Behaviour, SkippedTensor, become, is_a
from secateurs.structure.structure import Group, Structure

__all__ = [
    "MaskedLayerNorm",
    "MaskedNorm",
    "MaskedRMSNorm",
    "mask_joint_norms",
    "mask_norm",
    "narrow_joint_norms",
    "narrow_norm",
    "unmask_norm",
    "unmask_norms",
]


class MaskedNorm(Behaviour):
    """Base of the masked norms. ``kept`` is a buffer that is not saved; a training loop may replace it at every step."""

    kept: Bool[Tensor, " hidden"]


class MaskedLayerNorm(MaskedNorm):
    """LayerNorm over ``n`` kept dimensions out of ``H``.

    The mean over the kept dimensions is subtracted, and the other dimensions are set to zero. The variance over all ``H``
    dimensions is then ``n / H`` times the variance over the kept ones. Multiplying by ``sqrt(H / n)`` makes the two equal, so
    that the ordinary kernel divides by the right number, its epsilon included. The gain is divided by the same factor.
    """

    def forward(self: Any, hidden_states: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        x = hidden_states.to(torch.promote_types(dtype, torch.float32))  # a mean over many terms needs at least fp32
        mask = self.kept.to(x.dtype)
        stretch = (mask.numel() / mask.sum()).sqrt()
        mean = (x * mask).sum(-1, keepdim=True) / mask.sum()
        gain = self.weight.to(x.dtype) * (mask / stretch)
        bias = None if self.bias is None else self.bias.to(x.dtype) * mask
        return functional.layer_norm((x - mean) * (mask * stretch), x.shape[-1:], gain, bias, self.eps).to(dtype)


class MaskedRMSNorm(MaskedNorm):
    """RMSNorm over ``n`` kept dimensions out of ``H``.

    The kept dimensions are multiplied by ``sqrt(H / n)`` and the others are set to zero, so that the mean square over all
    ``H`` dimensions equals the mean square over the kept ones. The original class then normalises, in its own precision,
    and the result is divided by the same factor.
    """

    def forward(self: Any, hidden_states: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        x = hidden_states.to(torch.promote_types(dtype, torch.float32))
        mask = self.kept.to(x.dtype)
        stretch = (mask.numel() / mask.sum()).sqrt()
        normed = super().forward(x * (mask * stretch))  # pyright: ignore[reportAttributeAccessIssue]: the norm
        return (normed * (mask / stretch)).to(dtype)


def mask_norm(norm: nn.Module, kept: Bool[Tensor, " hidden"]) -> None:
    """Turn a norm, in place, into one over the ``kept`` dimensions. A norm that is masked already gets the new mask.

    A skipped norm, whose sub-block was removed, is left as it is.

    Args:
        norm: a LayerNorm or an RMSNorm.
        kept: True for every dimension to normalise over.

    Raises:
        UnsupportedModelError: the module is neither a LayerNorm nor an RMSNorm.
    """
    if is_a(SkippedTensor, norm):
        return
    if not is_norm(norm):
        raise UnsupportedModelError(
            f"a {type(norm).__name__} cannot be restricted to some dimensions; LayerNorm and RMSNorm can"
        )
    weight: Any = norm.weight
    if not isinstance(norm, MaskedNorm):
        become(norm, MaskedLayerNorm if isinstance(norm, nn.LayerNorm) else MaskedRMSNorm)
    norm.register_buffer("kept", kept.to(weight.device, torch.bool), persistent=False)


def narrow_norm(norm: nn.Module, kept: Bool[Tensor, " hidden"]) -> None:
    """Adapt the mask of a norm after its parameters were cut. If nothing is masked any more, the norm is unmasked.

    Args:
        norm: any norm; one that is not masked is left as it is.
        kept: True for every dimension that was kept by the cut, over the dimensions before the cut.
    """
    if isinstance(norm, MaskedNorm):
        norm.kept = norm.kept[kept.to(norm.kept.device)]
        if norm.kept.all():
            unmask_norm(norm)


def unmask_norm(norm: nn.Module) -> None:
    """Undo ``mask_norm``. A norm that is not masked is left as it is."""
    if isinstance(norm, MaskedNorm):
        del norm.kept
        norm.__class__ = type(norm).__bases__[-1]


def mask_joint_norms(model: nn.Module, group: Group, kept: Bool[Tensor, " units"]) -> None:
    """Take the statistics of the norms in ``Group.joint_norms`` over the kept units of the group.

    If no unit is kept, the output of the block is not used, and the norms stay as in the dense model.

    Args:
        model: the model, with every unit of the group present.
        group: a group of it.
        kept: True for every unit to keep.
    """
    if not group.joint_norms:
        return
    whole = bool(kept.all()) or not kept.any()
    for path in group.joint_norms:
        norm = model.get_submodule(path)
        unmask_norm(norm) if whole else mask_norm(norm, _dimensions(norm, kept))


def narrow_joint_norms(model: nn.Module, group: Group, kept: Bool[Tensor, " units"]) -> None:
    """``narrow_norm`` for the norms in ``Group.joint_norms``.

    Args:
        model: the model after the cut.
        group: the group before the cut.
        kept: True for every unit that was kept by the cut, over the units before the cut.
    """
    for path in group.joint_norms:
        norm = model.get_submodule(path)
        if isinstance(norm, MaskedNorm):
            narrow_norm(norm, kept.repeat_interleave(norm.kept.numel() // len(kept)))


def unmask_norms(model: nn.Module, structure: Structure) -> None:
    """Undo the masks of every norm over the stream or over the units of a group."""
    paths = [path for group in structure for path in group.joint_norms]
    for path in (*paths, *(structure.stream.norms if structure.stream else ())):
        unmask_norm(model.get_submodule(path))


def _dimensions(norm: Any, kept: Bool[Tensor, " units"]) -> Bool[Tensor, " hidden"]:
    """The mask of the units, repeated for every dimension of a unit."""
    return kept.repeat_interleave(norm.weight.numel() // len(kept))
