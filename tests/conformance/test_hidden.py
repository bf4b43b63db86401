"""Pruning the residual stream, for every family and for every task head that transformers has for it.

The law: if nothing is written to the dropped dimensions and the norms are computed over the others, shrinking changes no
output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from masks import only_stream, uneven
from secateurs.modeling.modeling_pruned import base_of
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, hidden_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.config_block import block_of
from secateurs.surgery.masked_norm import MaskedNorm
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import (
    ATTENTION_IN_FP32,
    DECODERS,
    ENCODER_DECODERS,
    auto_name,
    batch,
    copied,
    head_names,
    hidden_states,
    tiny_model,
    tiny_structure,
)

TYPES = hidden_types()
HEADS = [
    (model_type, auto)
    for model_type in TYPES
    for auto in head_names(model_type)
    if not (model_type in ENCODER_DECODERS and "Sequence" in auto)  # needs the end of the text in every row
    and auto != auto_name(model_type)  # the head of the other tests of the law
]
TOLERANCE = 1e-12


pytestmark = pytest.mark.usefixtures("norms_in_fp64")


def dense(model_type: str, auto: str | None = None) -> Any:
    changes = {"num_labels": 2} if auto and "Question" in auto else {}
    return tiny_model(model_type, auto=auto, **changes)


def without(structure: Structure, kind: Kind | None, layer: int) -> Mask:
    """``uneven``, and without all groups of one kind (``None`` = of every kind) in one layer; ALBERT has one layer."""
    layers = list(structure.layers)
    gone = {g.name for g in structure if g.layer == layers[layer % len(layers)] and kind in (None, g.kind)}
    return Mask({name: units & (name not in gone) for name, units in uneven(structure).kept.items()})


CASES: dict[str, Callable[[Structure], Mask]] = {
    "everything kept": Mask.full,
    "stream alone": lambda s: only_stream(s, lambda dims: dims % 4 != 1),
    "two dimensions left": lambda s: only_stream(s, lambda dims: (dims == 3) | (dims == 20)),
    "groups alone": lambda s: Mask({**uneven(s).kept, "hidden": torch.ones(s.sizes["hidden"]).bool()}),
    "all uneven": uneven,
    "an attention gone": lambda s: without(s, Kind.HEAD, 0),
    "a feed-forward gone": lambda s: without(s, Kind.INTERMEDIATE, 1),
    "first layer gone": lambda s: without(s, None, 0),
    "last layer gone": lambda s: without(s, None, 2),
}


def outputs(model: Any, kept: Tensor | None = None, padding: str | None = "right") -> list[Tensor]:
    """The stream at every layer, and the outputs of the head.

    With ``kept``, only the kept dimensions of the stream; the others are checked to be zero.
    """
    with torch.no_grad():
        found = model(**batch(model, padding=padding), output_hidden_states=True)
    states = hidden_states(found)
    if kept is not None:
        assert all((state[..., ~kept] == 0).all() for state in states)
        states = [state[..., kept] for state in states]
    heads = [found[name] for name in ("logits", "start_logits", "end_logits") if name in found]
    return [*states, *heads, *([found.pooler_output] if "pooler_output" in found else [])]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


Facts = tuple[Structure, ParameterCost, list[Tensor]]


def facts_of(model: Any) -> Facts:
    """Structure, cost and outputs of a dense model."""
    structure = discover(model, hidden=True)
    return structure, ParameterCost.of(model, structure), outputs(model)


@cache
def dense_facts(model_type: str) -> Facts:
    return facts_of(dense(model_type))


def check_law(model: Any, case: str, facts: Facts | None = None) -> None:
    """Check that the masked and the shrunk model agree, and that the cost counts the parameters."""
    structure, cost, before = facts or facts_of(model)
    mask = CASES[case](structure)
    assert cost(structure.sizes) == count(model), case
    zero_masked(model, structure, mask)
    masked = outputs(model, mask["hidden"])
    shrink(model, structure, mask)
    shrunk = outputs(model)
    assert difference(masked, shrunk) < TOLERANCE, case
    if mask["hidden"].all():
        assert (difference(before, shrunk) > 1e-3) == (mask != Mask.full(structure)), case
    else:
        assert shrunk[0].shape[-1] == mask.counts["hidden"] < structure.sizes["hidden"], case
    assert cost(mask.counts) == count(model), case
    assert not any(isinstance(module, MaskedNorm) for module in model.modules()), case


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_a_masked_model_changes_nothing(model_type: str) -> None:
    for case in CASES:
        check_law(dense(model_type), case, dense_facts(model_type))


@pytest.mark.parametrize(("model_type", "auto"), HEADS)
def test_under_every_head(model_type: str, auto: str) -> None:
    check_law(dense(model_type, auto), "an attention gone")


@pytest.mark.parametrize("model_type", TYPES)
def test_dropping_a_dimension_changes_the_output(model_type: str) -> None:
    """The dropped dimensions contribute before they are zeroed, so that the tests of the law are not trivial."""
    model, structure = dense(model_type), tiny_structure(model_type, hidden=True)
    shrink(model, structure, only_stream(structure, lambda dims: dims != 7))
    assert (outputs(model)[-1] - dense_facts(model_type)[2][-1]).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", TYPES)
def test_zeros_without_masked_norms_are_not_enough(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type, hidden=True)
    assert structure.stream is not None and structure.stream.norms
    mask = CASES["stream alone"](structure)
    only_zeros = copied(model)
    zero_masked(only_zeros, replace(structure, stream=replace(structure.stream, norms=())), mask)
    assert (outputs(only_zeros)[-1] - outputs(shrink(model, structure, mask))[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "model_type", [name for name in TYPES if name in DECODERS or "MaskedLM" in str(head_names(name))]
)
def test_language_heads_tied_and_not(model_type: str, tied: bool) -> None:
    auto = "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForMaskedLM"
    model = tiny_model(model_type, auto=auto, tie_word_embeddings=tied)
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    if out is None:  # an adaptive softmax has no single matrix
        check_law(model, "all uneven")
        return
    assert (into.weight is out.weight) == tied
    check_law(model, "all uneven")
    assert (into.weight is out.weight) == tied
    assert into.embedding_dim == into.weight.shape[1] and out.in_features == out.weight.shape[1]
    model.tie_weights()
    assert (into.weight is out.weight) == tied


@pytest.mark.parametrize("embedding_size", [16, 32])
@pytest.mark.parametrize("auto", head_names("electra"))
def test_embeddings_of_their_own_size(auto: str, embedding_size: int) -> None:
    check_law(tiny_model("electra", auto=auto, embedding_size=embedding_size, num_labels=2), "all uneven")


@pytest.mark.parametrize("model_type", TYPES)
def test_module_fields_match_the_new_sizes(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type, hidden=True)
    shrink(model, structure, uneven(structure))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        if isinstance(module, nn.Embedding):
            assert tuple(module.weight.shape) == (module.num_embeddings, module.embedding_dim)
        if isinstance(module, nn.LayerNorm):
            assert module.normalized_shape == tuple(module.weight.shape)
        if hasattr(module, "nf"):
            assert tuple(module.weight.shape) == (module.nx, module.nf)


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_those_of_the_masked_model(model_type: str) -> None:
    model = dense(model_type)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    structure = tiny_structure(model_type, hidden=True)
    mask, shrunk = CASES["stream alone"](structure), copied(model)
    zero_masked(model, structure, mask)
    shrink(shrunk, structure, mask)
    for each in (model, shrunk):
        each.train()
        each(**batch(each)).logits.square().mean().backward()
    assert structure.stream is not None
    wanted, compared = dict(model.named_parameters()), 0
    cuts: dict[str, set[int]] = {}
    for cut in structure.stream.cuts:
        cuts.setdefault(cut.parameter, set()).add(cut.dim)
    for name, parameter in shrunk.named_parameters():
        if parameter.grad is not None:
            compared += 1
            grad = wanted[name].grad
            for dim in cuts.get(name, ()):
                grad = grad.index_select(dim, mask.units("hidden"))
            assert torch.allclose(parameter.grad, grad, rtol=1e-9, atol=1e-12), name
    assert compared > 20


@pytest.mark.parametrize("model_type", sorted(DECODERS.intersection(TYPES)))
def test_generation_is_the_same(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type, hidden=True)
    mask = CASES["an attention gone"](structure)  # and dimensions of the stream, heads and neurons of all layers
    zero_masked(model, structure, mask)
    options = {"max_new_tokens": 3, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    runs: list[dict[str, Any]] = [
        {**options, "use_cache": cached, "num_beams": beams} for cached, beams in ((True, 1), (True, 3), (False, 1))
    ]
    prompt = batch(length=9, padding="left" if model._supports_sdpa else None)  # eager attention gives NaN in fp64
    before = [model.generate(**prompt, **run) for run in runs]
    shrink(model, structure, mask)
    for run, wanted in zip(runs, before, strict=True):
        found = model.generate(**prompt, **run)
        assert torch.equal(found.sequences, wanted.sequences)
        difference = (torch.stack(found.scores) - torch.stack(wanted.scores)).abs().max()
        assert difference < (1e-5 if model_type in ATTENTION_IN_FP32 else 1e-9)


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_twice_is_shrinking_once(model_type: str) -> None:
    once, twice, structure = dense(model_type), dense(model_type), tiny_structure(model_type, hidden=True)
    first, second = without(structure, Kind.HEAD, 1), CASES["stream alone"](structure)
    rest = discover(shrink(twice, structure, first), hidden=True)
    assert rest.sizes == {name: kept for name, kept in first.counts.items() if kept}
    shrink(twice, rest, Mask({name: second[name][first[name]] for name in rest.sizes}))
    shrink(once, structure, first & second)
    assert block_of(once) == block_of(twice)
    assert block_of(once)["groups"]["hidden"] == {
        "kind": "hidden", "size": structure.sizes["hidden"], "kept": (first & second).counts["hidden"]
    }  # fmt: skip
    tensors = twice.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in once.state_dict().items())
    assert difference(outputs(once), outputs(twice)) == 0.0
    groups = discover(once)
    assert groups.stream is None, "groups can still be pruned without the stream"
    shrink(once, groups, uneven(groups))
    heads = block_of(once)["edits"]["heads"]
    assert heads == block_of(twice)["edits"]["heads"]
    assert bool(heads) == (base_of(once) is not once)  # a language model of T5 is its own base model
    assert all(torch.isfinite(tensor).all() for tensor in outputs(once))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_stream_can_be_pruned_when_every_group_is_gone(model_type: str) -> None:
    model, structure = dense(model_type), tiny_structure(model_type, hidden=True)
    shrink(
        model, structure, Mask({**Mask.full(structure).kept, **{g.name: torch.zeros(g.size).bool() for g in structure}})
    )
    rest = discover(model, hidden=True)
    assert list(rest.sizes) == ["hidden"] and not len(rest)
    check_law(model, "stream alone")
