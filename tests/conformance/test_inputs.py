"""Inputs of linear layers in every family: masked is shrunk, what is saved is loaded, and nothing is cut twice."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from secateurs.checkpoint import load, save
from secateurs.cost import ParameterCost
from secateurs.errors import UnsupportedModelError
from secateurs.factorize import factorize, matrices
from secateurs.families import discover, model_types
from secateurs.inputs import input_groups
from secateurs.loader import install
from secateurs.mask import Mask
from secateurs.modeling_pruned import is_emptied, is_selected
from secateurs.shrink import shrink, zero_masked
from secateurs.structure import Structure
from tiny_models import DECODERS, batch, tiny_model

install()
TYPES = model_types()
TOLERANCE = 1e-12


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch(padding="right"))
    return found.logits


def mixed(structure: Structure) -> Mask:
    """None, a few, all but one, all, in turn, and not the first ones."""
    kept = {}
    for index, group in enumerate(structure):
        order = torch.randperm(group.size, generator=torch.Generator().manual_seed(index))
        kept[group.name] = order[: (0, 3, group.size - 1, group.size)[index % 4]]
    return Mask.from_units(structure, kept)


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_not_selected_contributes_nothing(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    structure, whole = input_groups(model), logits(model)
    assert [group.reader for group in structure] == list(matrices(model))
    mask, cost = mixed(structure), ParameterCost.of(model, structure)
    zero_masked(model, structure, mask)
    masked = logits(model)
    assert (masked - whole).abs().max() > 1e-3
    shrink(model, structure, mask)
    assert (logits(model) - masked).abs().max() < TOLERANCE
    assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters())
    for group in structure:
        module, kept = model.get_submodule(group.reader), mask.units(group.name)
        assert is_selected(module) == (0 < len(kept) < group.size)
        assert is_emptied(module) == (len(kept) == 0)
        if is_selected(module):
            assert torch.equal(module.selected, kept)
    head = "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForTokenClassification"
    folder = save(model, None, tmp_path / "model")
    for read in (load, getattr(transformers, head).from_pretrained, type(model).from_pretrained):
        assert (logits(read(folder)) - masked).abs().max() < TOLERANCE
    half = load(folder, dtype=torch.bfloat16)
    assert {value.dtype for name, value in half.state_dict().items() if name.endswith(".selected")} == {torch.int64}
    assert (logits(copy.deepcopy(model)) - masked).abs().max() < TOLERANCE
    block = json.loads((folder / "config.json").read_text())["secateurs"]
    assert 3 in block["edits"]["selected"].values()
    with pytest.raises(
        UnsupportedModelError, match="reads some of its inputs only: such a model cannot be pruned again"
    ):
        discover(load(folder))


def test_pairs_of_factors_have_no_such_inputs() -> None:
    model = tiny_model("bert")
    some = [path for path in matrices(model) if "attention" in path]
    factorize(model, some)
    assert not set(some) & {group.reader for group in input_groups(model)}
    factorize(model, matrices(model))
    with pytest.raises(
        UnsupportedModelError, match="every matrix of this BertForTokenClassification is a pair of factors"
    ):
        input_groups(model)
