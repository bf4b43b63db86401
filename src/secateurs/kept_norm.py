"""Norms over some dimensions of the residual stream: what a norm computes once the others are cut away.

A norm over the whole stream counts a dimension of zeros in its mean and variance, so zeroing is not cutting. A norm
that *keeps* some dimensions takes its statistics over those alone and emits zeros elsewhere. It stays the module it
was, with its own parameters, so that ``torch.func.functional_call`` may replace them; ``release`` undoes it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from secateurs.errors import UnsupportedModelError
from secateurs.modeling_pruned import SkippedTensor, become

__all__ = ["KeptLayerNorm", "KeptNorm", "KeptRMSNorm", "is_norm", "keep", "narrow", "release"]


class KeptNorm:
    """Mixed into a norm. ``kept`` is a buffer that is not saved; a training loop may set it anew at every step."""

    kept: Bool[Tensor, " hidden"]


class KeptLayerNorm(KeptNorm):
    """LayerNorm over the ``n`` kept of ``H`` dimensions.

    With the mean over the kept ones taken away, and the others at zero, the variance over all ``H`` is ``n / H`` times
    that over the kept ones. Stretching by ``sqrt(H / n)`` makes them equal, so that the stock kernel divides by the
    right number with its own epsilon; the gain takes the stretch back.
    """

    def forward(self: Any, hidden_states: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        x = hidden_states.to(torch.promote_types(dtype, torch.float32))  # the mean is a sum of many
        mask = self.kept.to(x.dtype)
        stretch = (mask.numel() / mask.sum()).sqrt()
        mean = (x * mask).sum(-1, keepdim=True) / mask.sum()
        gain = self.weight.to(x.dtype) * (mask / stretch)
        bias = None if self.bias is None else self.bias.to(x.dtype) * mask
        return functional.layer_norm((x - mean) * (mask * stretch), x.shape[-1:], gain, bias, self.eps).to(dtype)


class KeptRMSNorm(KeptNorm):
    """RMSNorm over the ``n`` kept of ``H`` dimensions: stretched by ``sqrt(H / n)``, the others at zero, they have the
    same mean square over all ``H``. The stock class does the rest, in the precision it does it in."""

    def forward(self: Any, hidden_states: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        x = hidden_states.to(torch.promote_types(dtype, torch.float32))
        mask = self.kept.to(x.dtype)
        stretch = (mask.numel() / mask.sum()).sqrt()
        normed = super().forward(x * (mask * stretch))  # pyright: ignore[reportAttributeAccessIssue]: of the stock norm
        return (normed * (mask / stretch)).to(dtype)


def is_norm(module: nn.Module) -> bool:
    """Can this norm keep some dimensions? True of LayerNorm and of RMSNorm, whoever wrote it."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def keep(norm: nn.Module, kept: Bool[Tensor, " hidden"]) -> None:
    """Normalise over the ``kept`` dimensions from now on; done again, the newer dimensions count.

    A norm that is skipped, since it only fed a removed sub-block, is left alone.

    Raises:
        UnsupportedModelError: the module is no norm that can.
    """
    if any(base.__name__ == SkippedTensor.__name__ for base in type(norm).__mro__):
        return
    if not is_norm(norm):
        raise UnsupportedModelError(f"a {type(norm).__name__} cannot be taken over some dimensions only")
    weight: Any = norm.weight
    if not isinstance(norm, KeptNorm):
        become(norm, KeptLayerNorm if isinstance(norm, nn.LayerNorm) else KeptRMSNorm)
    norm.register_buffer("kept", kept.to(weight.device, torch.bool), persistent=False)


def narrow(norm: nn.Module, kept: Bool[Tensor, " hidden"]) -> None:
    """The parameters were cut to the ``kept`` dimensions: a norm that has no others left is a stock one again."""
    if isinstance(norm, KeptNorm):
        norm.kept = norm.kept[kept.to(norm.kept.device)]
        if norm.kept.all():
            release(norm)


def release(norm: nn.Module) -> None:
    """Make a norm what it was before ``keep``."""
    if isinstance(norm, KeptNorm):
        del norm.kept
        norm.__class__ = type(norm).__bases__[-1]
