"""Shared and shrunk copies: what they share, and what stays safe."""

from __future__ import annotations

import pytest
import torch
import transformers

from masks import uneven
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shared_copy import shared_copy, shrunk_copy
from secateurs.surgery.shrink import shrink
from tiny_models import auto_name, tiny_model


def test_a_shared_copy_shares_weights_and_protects_the_model_from_surgery() -> None:
    model = tiny_model("gpt2").train()
    structure = discover(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = shared_copy(model)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    nothing = Mask({group.name: torch.zeros(group.size, dtype=torch.bool) for group in structure})
    shrink(copy.eval(), structure, nothing)
    assert discover(model).sizes == structure.sizes
    assert model.training
    assert getattr(model.config, "secateurs", None) is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_shared_copy_in_another_dtype_keeps_the_model_and_tied_weights() -> None:
    model = tiny_model("gpt2")
    copy = shared_copy(model, "cpu", torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in copy.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert copy.lm_head.weight is copy.transformer.wte.weight


@pytest.mark.parametrize("model_type", ["bert", "bart", "m2m_100", "gemma", "esm", "modernbert"])
def test_the_buffers_of_a_shared_copy_have_the_dtypes_of_a_loaded_model(model_type: str) -> None:
    """A table of positions in another dtype would change the dtype of the residual stream."""
    config = tiny_model(model_type).config
    auto = getattr(transformers, auto_name(model_type))
    loaded = auto.from_config(config, dtype=torch.bfloat16)
    copy = shared_copy(auto.from_config(config, dtype=torch.float32), dtype=torch.bfloat16)
    wanted = {name: buffer.dtype for name, buffer in loaded.named_buffers()}
    assert {name: buffer.dtype for name, buffer in copy.named_buffers()} == wanted


def test_swapped_tensors_of_a_model_leave_its_shared_copy_alone() -> None:
    model = tiny_model("gpt2")
    copy = shared_copy(model)
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch.zeros_like(tensor.data)
    assert all(torch.equal(value, before[name]) for name, value in copy.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_shrunk_copy_is_the_shrunk_model_and_shares_no_memory(family: str) -> None:
    model = tiny_model(family)
    structure = discover(model)
    mask = uneven(structure)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = shrink(tiny_model(family), structure, mask).state_dict()
    small = shrunk_copy(model, structure, mask)
    assert all(torch.equal(value, wanted[name]) for name, value in small.state_dict().items())
    for tensor in (*small.parameters(), *small.buffers()):
        tensor.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
