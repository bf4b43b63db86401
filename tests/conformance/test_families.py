"""What every family must keep to, found by scanning ``secateurs/families``: a new file is tested for nothing.

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

from secateurs.cost import ParameterCost
from secateurs.errors import UnsupportedModelError
from secateurs.families import discover, model_types
from secateurs.mask import Mask
from secateurs.shrink import edits_of, shrink, zero_masked
from secateurs.structure import Kind, Structure
from tiny_models import DECODERS, batch, tiny_model

TYPES = model_types()
TOLERANCE = 1e-12


@cache
def _dense(model_type: str) -> Any:
    return tiny_model(model_type)


def dense(model_type: str) -> Any:
    """A fresh copy; building one takes longer than copying it."""
    return copy.deepcopy(_dense(model_type))


def twins(model: Any, mask: Mask) -> tuple[Any, Any]:
    """The masked and the shrunk copy of a model."""
    structure = discover(model)
    masked = copy.deepcopy(model)
    zero_masked(masked, structure, mask)
    return masked, shrink(copy.deepcopy(model), structure, mask)


Outputs = list[torch.Tensor]


def outputs(model: Any, attention: str = "sdpa", padding: str | None = None) -> Outputs:
    """The residual stream at every layer, and what the head makes of it."""
    model.set_attn_implementation(attention)
    with torch.no_grad():
        found = model(**batch(padding=padding), output_hidden_states=True)
    assert all(torch.isfinite(tensor).all() for tensor in found.hidden_states)
    return [*found.hidden_states, found.logits]


def difference(one: Outputs, other: Outputs) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def random_mask(structure: Structure, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({group.name: torch.rand(group.size, generator=generator) < 0.5 for group in structure})


def emptied(structure: Structure, kind: Kind | None, layers: set[int]) -> Mask:
    """A mask without the groups of one kind (or of all kinds) in some layers, and uneven elsewhere."""
    order = list(structure.layers)
    kept = {}
    for group in structure:
        gone = order.index(group.layer) in layers and kind in (None, group.kind)
        kept[group.name] = torch.arange(group.size) % 3 != len(kept) % 3 if not gone else torch.zeros(group.size).bool()
    return Mask(kept)


EVERY = {0, 1, 2}
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
    "first attention gone": lambda s: emptied(s, Kind.HEAD, {0}),
    "later attentions gone": lambda s: emptied(s, Kind.HEAD, {1, 2}),
    "every attention gone": lambda s: emptied(s, Kind.HEAD, EVERY),
    "some feed-forwards gone": lambda s: emptied(s, Kind.INTERMEDIATE, {0, 2}),
    "every feed-forward gone": lambda s: emptied(s, Kind.INTERMEDIATE, EVERY),
    "first layer gone": lambda s: emptied(s, None, {0}),
    "middle layer gone": lambda s: emptied(s, None, {1}),
    "last layer gone": lambda s: emptied(s, None, {2}),
    "every layer gone": lambda s: emptied(s, None, EVERY),
}  # fmt: skip


def test_there_are_families() -> None:
    assert {"bert", "gpt2", "llama"} <= set(TYPES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_a_masked_model_changes_nothing(model_type: str, case: str) -> None:
    model = dense(model_type)
    structure = discover(model)
    cost, mask, whole = ParameterCost.of(model, structure), CASES[case](structure), outputs(model, "sdpa", "left")
    zero_masked(model, structure, mask)
    # Eager attention knows no fp64: it turns a row that sees nothing (left padding) into NaN.
    modes = [("sdpa", "left"), ("eager", "right")]
    masked = [outputs(model, *mode) for mode in modes]
    shrink(model, structure, mask)
    shrunk = [outputs(model, *mode) for mode in modes]
    assert max(map(difference, masked, shrunk)) < TOLERANCE
    assert (difference(whole, shrunk[0]) > 1e-3) == (mask != Mask.full(structure))
    assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model_type", TYPES)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_law_holds_for_any_mask(model_type: str, data: st.DataObject) -> None:
    model = dense(model_type)
    structure = discover(model)
    flags = {g.name: data.draw(st.lists(st.booleans(), min_size=g.size, max_size=g.size)) for g in structure}
    mask = Mask({name: torch.tensor(kept) for name, kept in flags.items()})
    zero_masked(model, structure, mask)
    masked = outputs(model)
    assert difference(masked, outputs(shrink(model, structure, mask))) < TOLERANCE


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_twice_is_shrinking_once(model_type: str) -> None:
    once, twice = dense(model_type), dense(model_type)
    structure = discover(once)
    first, second = emptied(structure, Kind.HEAD, {1}), random_mask(structure)
    rest = discover(shrink(twice, structure, first))
    assert rest.sizes == {name: count for name, count in first.counts.items() if count}
    shrink(twice, rest, Mask({group.name: second[group.name][first[group.name]] for group in rest}))
    shrink(once, structure, first & second)
    assert edits_of(once) == edits_of(twice)
    tensors = twice.state_dict()
    assert once.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in once.state_dict().items())
    assert difference(outputs(once), outputs(twice)) == 0.0


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_without_units_has_no_structure(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model)
    with pytest.raises(UnsupportedModelError, match="nothing is left"):
        discover(shrink(model, structure, emptied(structure, None, EVERY)))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_order_of_units_means_nothing(model_type: str) -> None:
    """Moving units around, by the cuts alone, changes no output; and the mask moves with them."""
    model = dense(model_type)
    structure, mask = discover(model), random_mask(discover(model))
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
    assert difference(outputs(model), outputs(moved)) < TOLERANCE
    moved_mask = Mask({name: mask[name][order[name]] for name in mask})
    shrunk = outputs(shrink(model, structure, mask)), outputs(shrink(moved, structure, moved_mask))
    assert difference(*shrunk) < TOLERANCE


@pytest.mark.parametrize("model_type", TYPES)
def test_module_fields_stay_true(model_type: str) -> None:
    """A stale field crashes some attentions and silently mixes the heads of others."""
    model = dense(model_type)
    structure = discover(model)
    mask = CASES["uneven heads"](structure)
    shrink(model, structure, mask)
    for group in structure:
        for path, per_unit in group.attributes.items():
            module, _, field = path.rpartition(".")
            assert getattr(model.get_submodule(module), field) == per_unit * mask.counts[group.name]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)


@pytest.mark.parametrize("model_type", TYPES)
def test_names_of_tensors_stay(model_type: str) -> None:
    model = dense(model_type)
    names = list(model.state_dict())
    structure = discover(model)
    assert list(shrink(model, structure, emptied(structure, None, {0, 2})).state_dict()) == names


@pytest.mark.parametrize("model_type", TYPES)
def test_a_copy_is_as_good(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model)
    shrink(model, structure, emptied(structure, None, {0}))
    assert difference(outputs(model), outputs(copy.deepcopy(model))) == 0.0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_those_of_the_masked_model(model_type: str, checkpointing: bool) -> None:
    model = dense(model_type)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    masked, shrunk = twins(model, emptied(discover(model), Kind.HEAD, {0}))
    for twin in (masked, shrunk):
        twin.train()
        if checkpointing:
            twin.activation_checkpointing_enable()
        twin(**batch()).logits.square().mean().backward()
    wanted = dict(masked.named_parameters())
    compared = 0
    for name, parameter in shrunk.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
            if parameter.shape == wanted[name].shape:
                compared += 1
                torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-9, atol=1e-12)
    assert compared > 5


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def continued(model: Any, way: str = "greedy", length: int = 9, new: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded and an unpadded prompt, continued: the tokens, and the scores they were chosen by."""
    prompt = batch(length=length, padding="left")
    options = {"max_new_tokens": new, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    found = model.generate(**prompt, **options, **WAYS[way])
    return found.sequences, torch.stack(found.scores)


def alike(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """The same tokens for the same reasons (norms in fp32 make caches differ by less than this)."""
    return torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max().item() < 1e-4


def stepped(model: Any) -> torch.Tensor:
    """Logits of one token at a time on a cache, with no hint of where it stands."""
    tokens, logits, cache = batch()["input_ids"], [], None
    with torch.no_grad():
        for step in range(tokens.shape[1]):
            found = model(input_ids=tokens[:, step : step + 1], past_key_values=cache, use_cache=True)
            cache = found.past_key_values
            logits.append(found.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("case", ["first attention gone", "every attention gone"])
@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_generation_is_the_same(model_type: str, case: str) -> None:
    model = dense(model_type)
    structure = discover(model)
    mask = CASES[case](structure)
    zero_masked(model, structure, mask)
    greedy, beams = continued(model), continued(model, "beams")
    shrink(model, structure, mask)
    assert alike(continued(model, "beams"), beams)
    for way in ("greedy", "static cache", "no cache"):
        assert alike(continued(model, way), greedy), way


@cache
def _mixed() -> Any:
    """Two kinds of cache in one model."""
    return tiny_model("qwen3", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2)


@pytest.mark.parametrize("gone", range(1, 16))
def test_generation_with_sliding_and_full_layers(gone: int) -> None:
    """Any subset of attentions removed; 27 tokens are more than the window of 8."""
    model = copy.deepcopy(_mixed())
    assert model.config.sliding_window == 8
    structure = discover(model)
    mask = emptied(structure, Kind.HEAD, {layer for layer in range(4) if gone >> layer & 1})
    zero_masked(model, structure, mask)
    greedy, steps = continued(model, length=20, new=7), stepped(model)
    shrink(model, structure, mask)
    assert alike(continued(model, length=20, new=7), greedy)
    assert alike(continued(model, "static cache", length=20, new=7), greedy)
    if gone != 15:  # without any attention there is no cache to step on
        assert (stepped(model) - steps).abs().max() < TOLERANCE


@pytest.mark.parametrize("gone", [{0}, {0, 2}])
def test_cached_generation_needs_renumbered_layers(gone: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cure, a gap in slot 0 of the cache goes unnoticed and gives other logits."""
    model = _mixed()
    mask = emptied(discover(model), Kind.HEAD, gone)
    masked, cured = twins(model, mask)
    monkeypatch.setattr("secateurs.shrink._cache_slots", lambda *_: {})
    _, ill = twins(model, mask)
    assert difference(outputs(ill), outputs(masked)) < TOLERANCE, "without a cache nothing is amiss"
    assert (stepped(cured) - stepped(masked)).abs().max() < TOLERANCE
    assert (stepped(ill) - stepped(masked)).abs().max() > 1e-3


def test_fused_attention_needs_its_split_size() -> None:
    """GPT-2 splits q, k and v by a remembered size."""
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
        _, shrunk = twins(model, emptied(discover(model), Kind.HEAD, {1}))
        shrunk(**batch(), output_attentions=True)


def test_an_unknown_family_is_refused_by_name() -> None:
    model = dense("bert")
    model.config.model_type = "sphinx"
    with pytest.raises(UnsupportedModelError, match=r"'sphinx'.*supported types: .*bert"):
        discover(model)
