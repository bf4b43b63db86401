"""The residual stream as units, on every family found by scanning, and on every head transformers puts on it.

The law: with nothing written to the dropped dimensions, and the norms taken over the others, shrinking changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from secateurs.cost import ParameterCost
from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.families import discover, model_types, plain_form
from secateurs.kept_norm import KeptNorm
from secateurs.mask import Mask
from secateurs.shrink import edits_of, shrink, zero_masked
from secateurs.structure import Cut, Kind, Stream, Structure
from tiny_models import DECODERS, batch, head_names, tiny_model

TYPES = model_types()
HEADS = [(model_type, auto) for model_type in TYPES for auto in head_names(model_type)]
TOLERANCE = 1e-12


pytestmark = pytest.mark.usefixtures("norms_in_fp64")


@cache
def _dense(model_type: str, auto: str | None) -> Any:
    changes = {"num_labels": 2} if auto and "Question" in auto else {}
    return tiny_model(model_type, auto=auto, **changes)


def dense(model_type: str, auto: str | None = None) -> Any:
    return copy.deepcopy(_dense(model_type, auto))


def uneven(structure: Structure) -> Mask:
    """Some of every group and of the stream, never the same ones."""
    return Mask(
        {name: torch.arange(size) % 3 != place % 3 for place, (name, size) in enumerate(structure.sizes.items())}
    )


def without(structure: Structure, kind: Kind | None, layer: int) -> Mask:
    """The same, and nothing of one kind (or of all kinds) in one layer."""
    gone = {g.name for g in structure if g.layer == list(structure.layers)[layer] and kind in (None, g.kind)}
    return Mask({name: units & (name not in gone) for name, units in uneven(structure).kept.items()})


def only_stream(structure: Structure, kept: Callable[[Tensor], Tensor]) -> Mask:
    stream = structure.stream
    assert stream is not None
    return Mask({**Mask.full(structure).kept, stream.name: kept(torch.arange(stream.size))})


CASES: dict[str, Callable[[Structure], Mask]] = {
    "everything kept": Mask.full,
    "stream alone": lambda s: only_stream(s, lambda dims: dims % 4 != 1),
    "one dimension gone": lambda s: only_stream(s, lambda dims: dims != 7),
    "two dimensions left": lambda s: only_stream(s, lambda dims: (dims == 3) | (dims == 20)),
    "groups alone": lambda s: Mask({**uneven(s).kept, "hidden": torch.ones(s.sizes["hidden"]).bool()}),
    "all uneven": uneven,
    "an attention gone": lambda s: without(s, Kind.HEAD, 0),
    "a feed-forward gone": lambda s: without(s, Kind.INTERMEDIATE, 1),
    "first layer gone": lambda s: without(s, None, 0),
    "last layer gone": lambda s: without(s, None, 2),
}


def outputs(model: Any, kept: Tensor | None = None, padding: str | None = "right") -> list[Tensor]:
    """The stream at every layer (the kept dimensions of it; the others are zero), and what the head makes of it."""
    with torch.no_grad():
        found = model(**batch(padding=padding), output_hidden_states=True)
    states = list(found.hidden_states)
    if kept is not None:
        assert all((state[..., ~kept] == 0).all() for state in states)
        states = [state[..., kept] for state in states]
    heads = [found[name] for name in ("logits", "start_logits", "end_logits") if name in found]
    return [*states, *heads, *([found.pooler_output] if "pooler_output" in found else [])]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_law(model: Any, case: str) -> None:
    structure = discover(model, hidden=True)
    cost, mask, whole = ParameterCost.of(model, structure), CASES[case](structure), outputs(model)
    assert cost(structure.sizes) == count(model)
    zero_masked(model, structure, mask)
    masked = outputs(model, mask["hidden"])
    shrink(model, structure, mask)
    shrunk = outputs(model)
    assert difference(masked, shrunk) < TOLERANCE
    if mask["hidden"].all():
        assert (difference(whole, shrunk) > 1e-3) == (mask != Mask.full(structure))
    else:
        assert shrunk[0].shape[-1] == mask.counts["hidden"] < structure.sizes["hidden"]
    assert cost(mask.counts) == count(model)
    assert not any(isinstance(module, KeptNorm) for module in model.modules())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_a_masked_model_changes_nothing(model_type: str, case: str) -> None:
    check_law(dense(model_type), case)


@pytest.mark.parametrize(("model_type", "auto"), HEADS)
def test_under_every_head(model_type: str, auto: str) -> None:
    check_law(dense(model_type, auto), "an attention gone")


@pytest.mark.parametrize("model_type", TYPES)
def test_the_head_moves_too(model_type: str) -> None:
    """The dropped dimensions meant something, so that the law is no empty one."""
    model = dense(model_type)
    structure, before = discover(model, hidden=True), outputs(model)[-1]
    shrink(model, structure, CASES["one dimension gone"](structure))
    assert (outputs(model)[-1] - before).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", TYPES)
def test_zeros_without_the_norms_would_not_do(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model, hidden=True)
    assert structure.stream is not None and structure.stream.norms
    mask = CASES["stream alone"](structure)
    careless = copy.deepcopy(model)
    zero_masked(careless, replace(structure, stream=replace(structure.stream, norms=())), mask)
    assert (outputs(careless)[-1] - outputs(shrink(model, structure, mask))[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "model_type", [name for name in TYPES if name in DECODERS or "MaskedLM" in str(head_names(name))]
)
def test_language_heads_tied_and_not(model_type: str, tied: bool) -> None:
    auto = "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForMaskedLM"
    model = tiny_model(model_type, auto=auto, tie_word_embeddings=tied)
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    if out is None:  # an adaptive softmax, which is no single matrix
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
def test_module_fields_stay_true(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model, hidden=True)
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
    structure = discover(model, hidden=True)
    mask, shrunk = CASES["stream alone"](structure), copy.deepcopy(model)
    zero_masked(model, structure, mask)
    shrink(shrunk, structure, mask)
    for twin in (model, shrunk):
        twin.train()
        twin(**batch()).logits.square().mean().backward()
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
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-12)
    assert compared > 25


@pytest.mark.parametrize("case", ["stream alone", "an attention gone"])
@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_generation_is_the_same(model_type: str, case: str) -> None:
    model = dense(model_type)
    structure = discover(model, hidden=True)
    mask = CASES[case](structure)
    zero_masked(model, structure, mask)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "output_scores": True}
    runs = []
    for cached in (True, False):
        for beams in (1, 3):
            runs.append({**options, "use_cache": cached, "num_beams": beams, "return_dict_in_generate": True})
    before = [model.generate(**batch(length=9, padding="left"), **run) for run in runs]
    shrink(model, structure, mask)
    for run, wanted in zip(runs, before, strict=True):
        found = model.generate(**batch(length=9, padding="left"), **run)
        assert torch.equal(found.sequences, wanted.sequences)
        assert (torch.stack(found.scores) - torch.stack(wanted.scores)).abs().max() < 1e-9


@pytest.mark.parametrize("model_type", TYPES)
def test_shrinking_twice_is_shrinking_once(model_type: str) -> None:
    once, twice = dense(model_type), dense(model_type)
    structure = discover(once, hidden=True)
    first, second = without(structure, Kind.HEAD, 1), CASES["stream alone"](structure)
    rest = discover(shrink(twice, structure, first), hidden=True)
    assert rest.sizes == {name: kept for name, kept in first.counts.items() if kept}
    shrink(twice, rest, Mask({name: second[name][first[name]] for name in rest.sizes}))
    shrink(once, structure, first & second)
    assert edits_of(once) == edits_of(twice)
    assert edits_of(once)["groups"]["hidden"] == {
        "kind": "hidden", "size": structure.sizes["hidden"], "kept": (first & second).counts["hidden"]
    }  # fmt: skip
    tensors = twice.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in once.state_dict().items())
    assert difference(outputs(once), outputs(twice)) == 0.0
    groups = discover(once)
    assert groups.stream is None, "and heads alone can still be pruned"
    shrink(once, groups, uneven(groups))
    assert edits_of(once)["edits"]["heads"] == edits_of(twice)["edits"]["heads"] != {}
    assert all(torch.isfinite(tensor).all() for tensor in outputs(once))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_stream_is_left_when_every_group_is_gone(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model, hidden=True)
    shrink(
        model, structure, Mask({**Mask.full(structure).kept, **{g.name: torch.zeros(g.size).bool() for g in structure}})
    )
    rest = discover(model, hidden=True)
    assert list(rest.sizes) == ["hidden"] and not len(rest)
    check_law(model, "stream alone")


@pytest.mark.parametrize("model_type", TYPES)
def test_without_being_asked_for_nothing_changes(model_type: str) -> None:
    model = dense(model_type)
    structure, whole = discover(model), discover(model, hidden=True)
    assert structure.stream is None and "hidden" not in structure.sizes
    assert structure.groups == whole.groups == tuple(whole)
    assert list(whole.sizes) == [*structure.sizes, "hidden"]
    assert all(whole.within(layer).stream is None for layer in whole.layers)
    assert whole.stream is not None
    moved = whole.prefixed("model.").stream
    assert moved is not None
    assert moved.cuts[0].parameter == f"model.{whole.stream.cuts[0].parameter}"
    assert moved.writers[0][0].startswith("model.") and moved.norms[0].startswith("model.")
    assert plain_form(shrink(model, whole, CASES["one dimension gone"](whole))) is None


@pytest.mark.parametrize("model_type", TYPES)
def test_the_cost_is_differentiable_in_the_stream_which_is_always_there(model_type: str) -> None:
    model = dense(model_type)
    structure = discover(model, hidden=True)
    cost = ParameterCost.of(model, structure)
    size = torch.tensor(12.0, dtype=torch.float64, requires_grad=True)
    present = {group.name: 0.25 for group in structure}
    expected = cost.expected(present, {**structure.sizes, "hidden": size})
    quarter = {group.name: 0.25 * group.size for group in structure}
    assert isinstance(expected, Tensor)
    assert float(expected.detach()) == float(cost({**quarter, "hidden": 12.0}))
    expected.backward()
    step = float(cost({**quarter, "hidden": 12.5})) - float(cost({**quarter, "hidden": 11.5}))
    assert size.grad is not None and size.grad.item() == pytest.approx(step)


def test_at_least_one_dimension_stays() -> None:
    model = dense("bert")
    structure = discover(model, hidden=True)
    for act in (shrink, zero_masked):
        with pytest.raises(RecipeError, match="none of the 32 dimensions"):
            act(model, structure, only_stream(structure, lambda dims: dims < 0))
    with pytest.raises(RecipeError, match="does not fit"):
        shrink(model, structure, Mask.full(discover(model)))


def test_modules_nobody_knows_of_are_refused_by_name() -> None:
    model = dense("bert")
    model.side_head = nn.Linear(32, 3)
    with pytest.raises(UnsupportedModelError, match=r"BertForTokenClassification.*side_head \(Linear\)"):
        discover(model, hidden=True)
    assert len(discover(model)) == 6, "its heads and neurons can be pruned"
    adapted = dense("llama")
    adapted.model.layers[1].mlp.up_proj.adapter = nn.Linear(48, 4, bias=False)
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.up_proj\.adapter"):
        discover(adapted, hidden=True)
    swapped = dense("gpt2")
    swapped.transformer.ln_f = nn.Linear(32, 32)
    with pytest.raises(UnsupportedModelError, match=r"ln_f \(Linear\)"):
        discover(swapped, hidden=True)
    wide = dense("roberta")
    wide.classifier = nn.Linear(64, 5)
    with pytest.raises(UnsupportedModelError, match=r"classifier\.weight has size 64 .* has 32"):
        discover(wide, hidden=True)


class OwnHead(transformers.BertForTokenClassification):
    """Somebody's head with the usual names and another way through."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.classifier(self.bert(*args, **kwargs).last_hidden_state)


class Renamed(transformers.BertForTokenClassification):
    """The stock head under another name."""


def test_a_head_with_its_own_forward_is_refused() -> None:
    config = _dense("bert", None).config
    with pytest.raises(UnsupportedModelError, match=r"OwnHead.*forward of its own"):
        discover(OwnHead(config), hidden=True)
    model = Renamed(copy.deepcopy(config)).double()
    structure = discover(model, hidden=True)
    shrink(model, structure, uneven(structure))
    assert list(edits_of(model)["edits"]["heads"]) == ["BertForTokenClassification"]


def test_a_family_without_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateurs.families._STREAMS", {})
    with pytest.raises(UnsupportedModelError, match="hidden size of bert models"):
        discover(dense("bert"), hidden=True)


def test_a_stream_states_no_nonsense() -> None:
    with pytest.raises(UnsupportedModelError, match="size 0"):
        Stream(0, (), (), ())
    with pytest.raises(UnsupportedModelError, match=r"not cut with it.*b\.weight"):
        Stream(4, (Cut("a.weight", 1),), (("b.weight", 1),), ())
