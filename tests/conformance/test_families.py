"""Tests that every family must pass. Families are found by scanning their folder, so a new file is tested automatically.

The law: if the units outside a mask contribute nothing, shrinking changes no output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masks import without_blocks
from secateurs.errors import UnsupportedModelError
from secateurs.modeling.own_config import field_owner
from secateurs.modeling.per_head import keep_heads
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.config_block import block_of
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import ATTENTION_IN_FP32, batch, copied, hidden_states, tiny_model, tiny_structure

TYPES = model_types()
TOLERANCE = 1e-12

pytestmark = pytest.mark.usefixtures("norms_in_fp64")


dense = tiny_model


@cache
def dense_facts(model_type: str) -> tuple[Structure, ParameterCost, Outputs]:
    """Structure, cost and outputs of a dense model."""
    model, structure = dense(model_type), tiny_structure(model_type)
    return structure, ParameterCost.of(model, structure), outputs(model, "sdpa", "left")


def masked_and_shrunk(model: Any, structure: Structure, mask: Mask) -> tuple[Any, Any]:
    """A masked copy of a model, and the model shrunk."""
    masked = copied(model)
    zero_masked(masked, structure, mask)
    return masked, shrink(model, structure, mask)


Outputs = list[torch.Tensor]


def outputs(model: Any, attention: str = "sdpa", padding: str | None = None) -> Outputs:
    """The residual stream at every layer, and the logits."""
    if attention == "sdpa" and not model._supports_sdpa:
        attention, padding = "eager", "right"
    model.set_attn_implementation(attention)
    with torch.no_grad():
        found = model(**batch(model, padding=padding), output_hidden_states=True)
    states = hidden_states(found)
    assert states and all(torch.isfinite(tensor).all() for tensor in states)
    return [*states, found.logits]


def difference(one: Outputs, other: Outputs) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def random_mask(structure: Structure, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({group.name: torch.rand(group.size, generator=generator) < 0.5 for group in structure})


EVERY = set(range(9))
CASES: dict[str, Callable[[Structure], Mask]] = {
    "everything kept": Mask.full,
    "one of everything": lambda s: Mask.from_units(s, {group.name: torch.tensor([group.size - 1]) for group in s}),
    "uneven heads": lambda s: Mask(
        {g.name: torch.arange(g.size) >= (i % g.size if g.kind is Kind.HEAD else 0) for i, g in enumerate(s)}
    ),
    "uneven widths": lambda s: Mask(
        {g.name: torch.arange(g.size) % (2 + i) != 0 if g.kind is Kind.INTERMEDIATE else torch.ones(g.size).bool()
         for i, g in enumerate(s)}
    ),
    "first attention gone": lambda s: without_blocks(s, Kind.HEAD, {0}),
    "later attentions gone": lambda s: without_blocks(s, Kind.HEAD, {1, 2}),
    "every attention gone": lambda s: without_blocks(s, Kind.HEAD, EVERY),
    "some feed-forwards gone": lambda s: without_blocks(s, Kind.INTERMEDIATE, {0, 2}),
    "every feed-forward gone": lambda s: without_blocks(s, Kind.INTERMEDIATE, EVERY),
    "first layer gone": lambda s: without_blocks(s, None, {0}),
    "middle layer gone": lambda s: without_blocks(s, None, {1}),
    "last layer gone": lambda s: without_blocks(s, None, {2}),
    "every layer gone": lambda s: without_blocks(s, None, EVERY),
}  # fmt: skip

WITH_EAGER = (
    "one of everything",
    "uneven heads",
    "first attention gone",
    "later attentions gone",
    "every attention gone",
)
"""The cases in which an attention changes, or goes, otherwise than in another case: they are run with eager attention too."""


def test_there_are_families() -> None:
    assert {"bert", "gpt2", "llama"} <= set(TYPES)


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_a_masked_model_changes_nothing(model_type: str) -> None:
    """All cases in one test: a thousand tests of their own take ten seconds to set up."""
    structure, cost, dense_outputs = dense_facts(model_type)
    for case, mask_of in CASES.items():
        model, mask = dense(model_type), mask_of(structure)
        zero_masked(model, structure, mask)
        # Eager attention has no fp64 mask value: a row without any visible token (left padding) becomes NaN.
        modes = [("sdpa", "left")] if model._supports_sdpa else []
        modes += [("eager", "right")] if case in WITH_EAGER or not modes else []
        masked = [outputs(model, *mode) for mode in modes]
        shrink(model, structure, mask)
        shrunk = [outputs(model, *mode) for mode in modes]
        assert max(map(difference, masked, shrunk)) < TOLERANCE, case
        assert (difference(dense_outputs, shrunk[0]) > 1e-3) == (mask != Mask.full(structure)), case
        assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters()), case


@pytest.mark.parametrize("model_type", TYPES)
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_law_holds_for_any_mask(model_type: str, data: st.DataObject) -> None:
    model, structure = dense(model_type), dense_facts(model_type)[0]
    bits = {group.name: data.draw(st.integers(0, 2**group.size - 1)) for group in structure}
    mask = Mask({name: torch.tensor([bool(bits[name] >> unit & 1) for unit in range(size)])
                 for name, size in structure.sizes.items()})  # fmt: skip
    zero_masked(model, structure, mask)
    masked = outputs(model)
    assert difference(masked, outputs(shrink(model, structure, mask))) < TOLERANCE


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_twice_is_shrinking_once(model_type: str) -> None:
    once, twice, structure = dense(model_type), dense(model_type), tiny_structure(model_type)
    first, second = without_blocks(structure, Kind.HEAD, {1}), random_mask(structure)
    rest = discover(shrink(twice, structure, first))
    assert rest.sizes == {name: count for name, count in first.counts.items() if count}
    shrink(twice, rest, Mask({group.name: second[group.name][first[group.name]] for group in rest}))
    shrink(once, structure, first & second)
    assert block_of(once) == block_of(twice)
    tensors = twice.state_dict()
    assert once.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in once.state_dict().items())
    assert difference(outputs(once), outputs(twice)) == 0.0


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_without_units_has_no_structure(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type)
    with pytest.raises(UnsupportedModelError, match="nothing is left"):
        discover(shrink(model, structure, without_blocks(structure, None, EVERY)))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_order_of_units_does_not_matter(model_type: str) -> None:
    """Permuting the units of every group by its cuts changes no output, and a mask can be permuted with them."""
    model, structure = dense(model_type), tiny_structure(model_type)
    mask = random_mask(structure)
    moved, order = dense(model_type), {g.name: torch.randperm(g.size, generator=torch.Generator().manual_seed(1))
                                       for g in structure}  # fmt: skip
    with torch.no_grad():
        for group in structure:
            for cut in group.cuts:
                parameter = moved.get_parameter(cut.parameter)
                rows = cut.offset + order[group.name][:, None] * cut.width + torch.arange(cut.width)
                owned = (cut.offset + torch.arange(group.size * cut.width)).flatten()
                taken = parameter.index_select(cut.dim, rows.flatten())
                parameter.index_copy_(cut.dim, owned, taken)
            if group.per_head:  # heads that moved keep their entries of a shared position bias
                keep_heads(moved.get_submodule(group.block), dict(group.per_head), order[group.name].tolist())
    assert difference(outputs(model), outputs(moved)) < TOLERANCE
    moved_mask = Mask({name: mask[name][order[name]] for name in mask})
    shrunk = outputs(shrink(model, structure, mask)), outputs(shrink(moved, structure, moved_mask))
    assert difference(*shrunk) < TOLERANCE


@pytest.mark.parametrize("model_type", TYPES)
def test_module_fields_match_the_new_sizes(model_type: str) -> None:
    """Some attention modules crash with an outdated field, and others silently mix their heads."""
    model, structure = dense(model_type), tiny_structure(model_type)
    mask = CASES["uneven heads"](structure)
    shrink(model, structure, mask)
    for group in structure:
        for path, per_unit in group.attributes.items():
            field = path.rpartition(".")[2]
            assert getattr(field_owner(model, path), field) == per_unit * mask.counts[group.name]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)


@pytest.mark.parametrize("model_type", TYPES)
def test_names_of_tensors_do_not_change(model_type: str) -> None:
    model = dense(model_type)
    names, structure = list(model.state_dict()), tiny_structure(model_type)
    assert list(shrink(model, structure, without_blocks(structure, None, {0, 2})).state_dict()) == names


@pytest.mark.parametrize("model_type", TYPES)
def test_a_copy_of_a_shrunk_model_gives_the_same_outputs(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type)
    shrink(model, structure, without_blocks(structure, None, {0}))
    assert difference(outputs(model), outputs(copy.deepcopy(model))) == 0.0


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_those_of_the_masked_model(model_type: str) -> None:
    """With checkpointing, where transformers has it; ``test_hidden`` has the same test without."""
    model = dense(model_type)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    structure = tiny_structure(model_type)
    masked, shrunk = masked_and_shrunk(model, structure, without_blocks(structure, Kind.HEAD, {0}))
    for each in (masked, shrunk):
        each.train()
        if each.supports_gradient_checkpointing:
            each.activation_checkpointing_enable()
        each(**batch(each)).logits.square().mean().backward()
    wanted = dict(masked.named_parameters())
    compared = 0
    close = {"rtol": 1e-5, "atol": 1e-7} if model_type in ATTENTION_IN_FP32 else {"rtol": 1e-9, "atol": 1e-12}
    for name, parameter in shrunk.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
            if parameter.shape == wanted[name].shape:
                compared += 1
                assert torch.allclose(parameter.grad, wanted[name].grad, **close), name
    assert compared > 5


def test_fused_attention_needs_its_split_size() -> None:
    """GPT-2 splits q, k and v by the size in a module field."""
    model = dense("gpt2")
    structure = discover(model)
    mask = CASES["uneven heads"](structure)
    stale = Structure(tuple(replace(group, attributes={}) for group in structure))
    with pytest.raises((RuntimeError, ValueError)):
        shrink(copy.deepcopy(model), stale, mask)(**batch())


def test_removed_attentions_report_no_weights() -> None:
    for model_type in TYPES:
        model = dense(model_type)
        model.set_attn_implementation("eager")
        structure = tiny_structure(model_type)
        shrink(model, structure, without_blocks(structure, Kind.HEAD, {1}))
        model(**batch(model), output_attentions=True)


def test_an_unknown_family_is_refused_by_name() -> None:
    model = dense("bert")
    model.config.model_type = "sphinx"
    with pytest.raises(UnsupportedModelError, match=r"'sphinx'.*supported types: .*bert"):
        discover(model)
