"""The residual stream as data: how a structure describes it, what it costs, and which models are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from masks import only_stream, uneven
from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Cut
from secateurs.structure.families import discover, hidden_types, plain_config_of
from secateurs.structure.mask import Mask
from secateurs.structure.stream import Stream
from secateurs.surgery.config_block import block_of
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import tiny_model

TYPES = hidden_types()


dense = tiny_model


@pytest.mark.parametrize("model_type", TYPES)
def test_the_stream_is_left_out_by_default(model_type: str) -> None:
    model = dense(model_type)
    structure, with_stream = discover(model), discover(model, hidden=True)
    assert structure.stream is None and "hidden" not in structure.sizes
    assert structure.groups == with_stream.groups == tuple(with_stream)
    assert list(with_stream.sizes) == [*structure.sizes, "hidden"]
    assert all(with_stream.within(layer).stream is None for layer in with_stream.layers)
    assert with_stream.stream is not None
    moved = with_stream.prefixed("model.").stream
    assert moved is not None
    assert moved.cuts[0].parameter == f"model.{with_stream.stream.cuts[0].parameter}"
    assert moved.writers[0][0].startswith("model.") and moved.norms[0].startswith("model.")
    assert plain_config_of(shrink(model, with_stream, only_stream(with_stream, lambda dims: dims != 7))) is None


@pytest.mark.parametrize("model_type", TYPES)
def test_the_cost_is_differentiable_in_the_size_of_the_stream(model_type: str) -> None:
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


def test_unknown_modules_are_refused_by_name() -> None:
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
    """A user's head with the usual module names and another data flow."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.classifier(self.bert(*args, **kwargs).last_hidden_state)


class Renamed(transformers.BertForTokenClassification):
    """transformers' own head under another name."""


def test_a_head_with_its_own_forward_is_refused() -> None:
    config = dense("bert").config
    with pytest.raises(UnsupportedModelError, match=r"OwnHead.*forward of its own"):
        discover(OwnHead(config), hidden=True)
    model = Renamed(copy.deepcopy(config)).double()
    structure = discover(model, hidden=True)
    shrink(model, structure, uneven(structure))
    assert list(block_of(model)["edits"]["heads"]) == ["BertForTokenClassification"]


def test_a_family_without_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateurs.structure.families._STREAMS", {})
    with pytest.raises(UnsupportedModelError, match="hidden size of bert models"):
        discover(dense("bert"), hidden=True)


def test_an_inconsistent_stream_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="size 0"):
        Stream(0, (), (), ())
    with pytest.raises(UnsupportedModelError, match=r"not cut with it.*b\.weight"):
        Stream(4, (Cut("a.weight", 1),), (("b.weight", 1),), ())
