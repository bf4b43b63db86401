"""Inputs of linear layers as units, in every family: the law, saving and loading, and the refusal of a second pruning."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.errors import UnsupportedModelError
from secateurs.modeling.pruned_modules import is_emptied, is_selected
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.factorize import factorize, matrices
from secateurs.surgery.input_selection import input_groups
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import auto_name, batch, tiny_model

install()
TYPES = model_types()
TOLERANCE = 1e-12


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch(model, padding="right"))
    return found.logits


def mixed(structure: Structure) -> Mask:
    """Keep 0, 3, all but one, and all inputs in turn, chosen at random."""
    kept = {}
    for index, group in enumerate(structure):
        order = torch.randperm(group.size, generator=torch.Generator().manual_seed(index))
        kept[group.name] = order[: (0, 3, group.size - 1, group.size)[index % 4]]
    return Mask.from_units(structure, kept)


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_not_selected_contributes_nothing(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    structure, before = input_groups(model), logits(model)
    assert [group.output_projection for group in structure] == list(matrices(model))
    mask, cost = mixed(structure), ParameterCost.of(model, structure)
    zero_masked(model, structure, mask)
    masked = logits(model)
    assert (masked - before).abs().max() > 1e-3
    shrink(model, structure, mask)
    assert (logits(model) - masked).abs().max() < TOLERANCE
    assert cost(mask.counts) == sum(parameter.numel() for parameter in model.parameters())
    for group in structure:
        module, kept = model.get_submodule(group.output_projection), mask.units(group.name)
        assert is_selected(module) == (0 < len(kept) < group.size)
        assert is_emptied(module) == (len(kept) == 0)
        if is_selected(module):
            assert torch.equal(module.selected, kept)
    folder = save(model, None, tmp_path / "model")
    loaded = load(folder)
    for other in (loaded, copy.deepcopy(model)):
        assert (logits(other) - masked).abs().max() < TOLERANCE
    block = json.loads((folder / "config.json").read_text())["secateurs"]
    assert 3 in block["edits"]["inputs"].values()
    with pytest.raises(
        UnsupportedModelError, match="uses some of its inputs only: such a model cannot be pruned again"
    ):
        discover(loaded)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_other_ways_to_load(model_type: str, tmp_path: Path) -> None:
    """``load`` calls ``from_pretrained`` of the saved class. Nothing in the other ways depends on the family."""
    model = tiny_model(model_type)
    structure = input_groups(model)
    folder = save(shrink(model, structure, mixed(structure)), None, tmp_path / "model")
    for cls in (getattr(transformers, auto_name(model_type)), type(tiny_model(model_type))):
        assert (logits(cls.from_pretrained(folder)) - logits(model)).abs().max() < TOLERANCE
    half = load(folder, dtype=torch.bfloat16)
    assert {value.dtype for name, value in half.state_dict().items() if name.endswith(".selected")} == {torch.int64}
    assert torch.isfinite(logits(half)).all()


def test_pairs_of_factors_have_no_such_inputs() -> None:
    model = tiny_model("bert")
    some = [path for path in matrices(model) if "attention" in path]
    factorize(model, some)
    assert not set(some) & {group.output_projection for group in input_groups(model)}
    factorize(model, matrices(model))
    with pytest.raises(
        UnsupportedModelError, match="every matrix of this BertForTokenClassification is a pair of factors"
    ):
        input_groups(model)


def with_earlier_names(folder: Path) -> None:
    """Rename what an earlier version saved under other names: the matrix was no child, and the edits were ``selected``."""
    values = json.loads((folder / "config.json").read_text())
    edits = values["secateurs"]["edits"]
    edits["selected"] = edits.pop("inputs")
    (folder / "config.json").write_text(json.dumps(values))
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace(".linear.", "."): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_folders_of_earlier_versions_load(model_type: str, tmp_path: Path) -> None:
    """With and without a transposed weight, and with and without biases; in every way, and saved again."""
    model = tiny_model(model_type)
    structure = input_groups(model)
    folder = save(shrink(model, structure, mixed(structure)), None, tmp_path / "model")
    wanted = logits(model)
    with_earlier_names(folder)
    again = save(load(folder), None, tmp_path / "again")
    for place in (folder, again):
        plain, remote = type(tiny_model(model_type)), type(model)
        for loaded in (
            load(place),
            plain.from_pretrained(place),
            remote.from_pretrained(place, trust_remote_code=True),
        ):
            assert (logits(loaded) - wanted).abs().max() < TOLERANCE  # a sum may depend on where a file lies in memory
    with pytest.raises(UnsupportedModelError, match="uses some of its inputs only"):
        discover(load(again))
