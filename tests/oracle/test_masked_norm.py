"""Masked norms against an oracle: select the kept dimensions, apply a small norm, put the result back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from secateurs.errors import UnsupportedModelError
from secateurs.modeling.pruned_modules import SkippedTensor, become
from secateurs.surgery.masked_norm import MaskedNorm, mask_norm, narrow_norm, unmask_norm

HIDDEN = 24
NORMS: dict[str, Any] = {
    "LayerNorm": lambda: nn.LayerNorm(HIDDEN, eps=1e-2),
    "LayerNorm without bias": lambda: nn.LayerNorm(HIDDEN, eps=1e-2, bias=False),
    "torch's RMSNorm": lambda: nn.RMSNorm(HIDDEN, eps=1e-2),
    "transformers' RMSNorm": lambda: LlamaRMSNorm(HIDDEN, eps=1e-2),
}


@pytest.fixture(params=NORMS)
def norm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A norm with random gains and offsets that computes in fp64; transformers' RMSNorm would compute in fp32."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", in_own_precision)
    module = NORMS[request.param]().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def in_own_precision(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def stream(dtype: torch.dtype = torch.float64) -> Tensor:
    """Random hidden states with mean 3."""
    return (3 + torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1))).to(dtype)


def kept(count: int) -> Tensor:
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(2))
    return torch.zeros(HIDDEN, dtype=torch.bool).index_fill(0, order[:count], True)


def selected_norm(norm: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The oracle: index-select, a small norm of the same class, index-copy."""
    small = copy.deepcopy(norm)
    if hasattr(small, "normalized_shape"):
        small.normalized_shape = (int(mask.sum()),)
    selected = {name: parameter[mask] for name, parameter in norm.named_parameters()}
    for name in selected:
        setattr(small, name, nn.Parameter(torch.empty(int(mask.sum()), dtype=x.dtype)))
    return torch.zeros_like(x).index_copy(
        -1, mask.nonzero().flatten(), functional_call(small, selected, (x[..., mask],))
    )


@pytest.mark.parametrize("count", [1, 2, 13, 23, HIDDEN])
def test_values_and_gradients_are_those_of_the_small_norm(norm: Any, count: int) -> None:
    mask, results = kept(count), []
    weighting = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kind in ("selected", "masked"):
        module, x = copy.deepcopy(norm), stream().requires_grad_()
        if kind == "masked":
            mask_norm(module, mask)
        out = module(x) if kind == "masked" else selected_norm(module, x, mask)
        wanted = (x, *module.parameters())
        results.append((out.detach(), *torch.autograd.grad((out * weighting).sum(), wanted)))
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)
    assert (results[1][0][..., ~mask] == 0).all()
    assert count == 1 or results[1][0][..., mask].abs().max() > 0.1


def test_zeros_alone_are_not_enough(norm: Any) -> None:
    """An ordinary norm over a stream with zeros has another output: the reason for ``mask_norm``."""
    mask = kept(13)
    x = stream() * mask
    assert (norm(x) - selected_norm(norm, x, mask))[..., mask].abs().max() > 0.05


def test_replaced_parameters_are_used(norm: Any) -> None:
    mask = kept(13)
    replaced = {name: parameter.detach() * -2 for name, parameter in norm.named_parameters()}
    wanted = selected_norm(norm, stream(), mask) * -2
    mask_norm(norm, mask)
    torch.testing.assert_close(functional_call(norm, replaced, (stream(),)), wanted)
    other = kept(5)
    found = functional_call(norm, {"kept": other}, (stream(),))
    torch.testing.assert_close(found, selected_norm(unmasked_copy(norm), stream(), other))


def unmasked_copy(norm: Any) -> Any:
    found = copy.deepcopy(norm)
    unmask_norm(found)
    return found


def test_keeping_all_equals_the_ordinary_norm_and_unmasking_is_exact(norm: Any) -> None:
    cls, before, names = type(norm), norm(stream()), list(norm.state_dict())
    mask_norm(norm, kept(HIDDEN))
    torch.testing.assert_close(norm(stream()), before, atol=1e-14, rtol=1e-14)
    mask_norm(norm, kept(7))
    assert isinstance(norm, MaskedNorm) and isinstance(norm, cls)
    assert list(norm.state_dict()) == names
    assert not torch.allclose(norm(stream()), before)
    unmask_norm(norm)
    unmask_norm(norm)
    assert type(norm) is cls and not list(norm.buffers())
    assert torch.equal(norm(stream()), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_as_accurate_as_an_ordinary_norm(norm: Any, dtype: torch.dtype) -> None:
    mask = kept(13)
    wanted = selected_norm(norm, stream(dtype).double(), mask)
    norm = norm.to(dtype)
    mask_norm(norm, mask)
    found = norm(stream(dtype))
    assert found.dtype == dtype
    bound = 1e-5 if dtype is torch.float32 else 4e-2
    assert (found.double() - wanted).abs().max() < bound * wanted.abs().max()


def test_narrowing_keeps_the_output_of_the_remaining_dimensions(norm: Any) -> None:
    first, second = kept(20), kept(13)  # the second lies inside the first
    mask_norm(norm, second)
    wanted = norm(stream())[..., first]
    with torch.no_grad():
        for name, parameter in list(norm.named_parameters()):
            setattr(norm, name, nn.Parameter(parameter[first]))
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (20,)
    narrow_norm(norm, first)
    torch.testing.assert_close(norm(stream()[..., first]), wanted)
    narrow_norm(norm, second[first])
    assert not isinstance(norm, MaskedNorm)


def test_a_skipped_norm_stays_skipped_and_others_are_refused() -> None:
    norm = nn.LayerNorm(HIDDEN)
    become(norm, SkippedTensor)
    mask_norm(norm, kept(3))
    assert norm(stream()) is not None and not isinstance(norm, MaskedNorm)
    with pytest.raises(UnsupportedModelError, match="BatchNorm1d"):
        mask_norm(nn.BatchNorm1d(HIDDEN), kept(3))
