"""Saved models with a cut hidden size, loaded where Secateurs is installed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from masks import two_blocks_removed
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import describe, load, save
from secateurs.errors import CheckpointError
from secateurs.structure.families import discover, hidden_types
from secateurs.structure.mask import Mask
from secateurs.surgery.config_block import block_of
from secateurs.surgery.shrink import shrink
from tiny_models import DECODERS, ENCODER_DECODERS, batch, fill, head_names, tiny_model

install()
TYPES = hidden_types()
HEADS = [
    (model_type, auto)
    for model_type in TYPES
    for auto in head_names(model_type)
    if not (model_type in ENCODER_DECODERS and "Sequence" in auto)  # needs the end of the text in every row
]
TOLERANCE = 1e-12


def pruned(model_type: str, auto: str | None = None, **changes: Any) -> Any:
    """A tiny model with a cut hidden size, without its first attention block and its second feed-forward block."""
    model = tiny_model(model_type, auto=auto, **changes)
    structure = discover(model, hidden=True)
    return shrink(model, structure, two_blocks_removed(structure))


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch(model, padding="right"))
    names = ("logits", "start_logits", "end_logits", "last_hidden_state")
    return torch.cat([found[name].flatten() for name in names if name in found])


def same(one: Tensor, other: Tensor) -> bool:
    return (one - other).abs().max().item() < TOLERANCE


@pytest.mark.parametrize(("model_type", "auto"), HEADS)
def test_a_saved_model_is_loaded(model_type: str, auto: str, tmp_path: Path) -> None:
    model = pruned(model_type, auto, num_labels=2)
    wanted = outputs(model)
    folder = save(model, None, tmp_path / "model")
    describe(folder, {"speedup": 2.1}, "")
    assert (folder / "modeling_pruned.py").is_file()
    for read in (load, getattr(transformers, auto).from_pretrained):
        again = read(folder)
        assert type(again) is type(model)
        assert same(outputs(again), wanted)
        tensors = again.state_dict()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
        assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()], (
            "parameters are tied as before"
        )
    mine, found = block_of(model), block_of(again)
    assert found["groups"] == mine["groups"]
    assert mine["edits"]["heads"].items() <= found["edits"]["heads"].items()
    assert {**found["edits"], "heads": 0, "optional": 0} == {**mine["edits"], "heads": 0, "optional": 0}


@pytest.mark.parametrize("model_type", TYPES)
def test_the_base_model_and_every_other_head(model_type: str, tmp_path: Path) -> None:
    """The base model and every task head can be loaded from the folder."""
    folders = [
        save(pruned(model_type, head_names(model_type)[first], num_labels=2), None, tmp_path / str(first))
        for first in (0, -1)
    ]  # with a pooler and without, if the family has one
    autos = [auto for kind, auto in HEADS if kind == model_type]
    for folder, auto in ((folder, auto) for folder in folders for auto in autos):
        if auto == "AutoModelForQuestionAnswering" and model_type in DECODERS - {"gpt2"}:
            continue  # its base model has another name in transformers, so that no weight of the folder is used
        other, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
        assert not info["mismatched_keys"]
        for name in info["missing_keys"]:  # of a new head, which transformers may leave uninitialised
            if (parameter := dict(other.named_parameters()).get(name)) is not None:
                parameter.data.zero_()
        assert torch.isfinite(outputs(other)).all()
        dense = tiny_model(model_type, auto=auto, num_labels=2)
        structure = discover(dense, hidden=True)
        shrink(dense, structure, two_blocks_removed(structure))
        assert [p.shape for p in other.parameters()] == [p.shape for p in dense.parameters()]


def test_another_number_of_labels(tmp_path: Path) -> None:
    folder = save(pruned("bert", "AutoModelForMaskedLM"), None, tmp_path / "model")
    labels = {index: str(index) for index in range(7)}
    auto = transformers.AutoModelForTokenClassification
    assert auto.from_pretrained(folder, id2label=labels).classifier.weight.shape == (7, 21)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "gpt2", "llama", "roberta"])
def test_tied_embeddings_stay_tied(model_type: str, tied: bool, tmp_path: Path) -> None:
    auto = "AutoModelForCausalLM" if model_type in DECODERS else "AutoModelForMaskedLM"
    model = pruned(model_type, auto, tie_word_embeddings=tied)
    folder = save(model, None, tmp_path / "model")
    again = load(folder)
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied
    assert same(outputs(again), outputs(model))
    config = transformers.AutoConfig.from_pretrained(folder)
    built = getattr(transformers, auto).from_config(config)
    assert (built.get_input_embeddings().weight is built.get_output_embeddings().weight) == tied
    assert [p.shape for p in built.parameters()] == [p.shape for p in model.parameters()]
    assert isinstance(outputs(built.double()), Tensor)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_pruned_model_is_pruned_again(model_type: str, tmp_path: Path) -> None:
    """Pruned with and without the stream, in memory and after loading."""
    for hidden in (True, False):
        model = pruned(model_type)
        again = load(save(model, None, tmp_path / "model"))
        for each in (model, again):
            structure = discover(each, hidden=hidden)
            shrink(each, structure, Mask({name: torch.arange(size) > 0 for name, size in structure.sizes.items()}))
        assert block_of(again)["groups"] == block_of(model)["groups"]
        assert same(outputs(again), outputs(model))
        assert same(outputs(load(save(again, None, tmp_path / "more"))), outputs(model))


def test_cutting_the_stream_before_or_after_the_heads_is_the_same() -> None:
    """The edits of two prunings are merged size by size, in either order."""
    found = []
    for first, second in (("hidden", ""), ("", "hidden")):
        model = tiny_model("llama")
        for turn in (first, second):
            structure = discover(model, hidden=bool(turn))
            names = [turn] if turn else [group.name for group in structure]
            shrink(model, structure, Mask.from_units(structure, {name: torch.arange(2) for name in names}))
        found.append(model)
    assert block_of(found[0])["groups"] == block_of(found[1])["groups"]
    built = [type(model)(copy.deepcopy(model.config)) for model in found]
    shapes = [[p.shape for p in model.parameters()] for model in (*found, *built)]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]
    assert same(outputs(found[0]), outputs(found[1]))


def test_the_vocabulary_may_grow_afterwards(tmp_path: Path) -> None:
    model = pruned("gpt2")
    model.resize_token_embeddings(53)
    again = load(save(model, None, tmp_path / "model"))
    assert again.transformer.wte.weight.shape == (53, model.transformer.ln_f.weight.shape[0])
    assert same(outputs(again), outputs(model))


def test_edits_are_derived_again_if_their_paths_do_not_exist(tmp_path: Path) -> None:
    model = pruned("bert")
    folder = save(model, None, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    shapes = values["secateurs"]["edits"]["shapes"]
    values["secateurs"]["edits"]["shapes"] = {f"renamed.{path}": shape for path, shape in shapes.items()}
    (folder / "config.json").write_text(json.dumps(values))
    again = load(folder)
    assert same(outputs(again), outputs(model))
    assert block_of(again)["edits"]["heads"]["BertForTokenClassification"] == {"classifier.weight": [None, 21]}


def test_an_unknown_head_is_refused(tmp_path: Path) -> None:
    model = pruned("bert", "AutoModel")
    folder = save(model, None, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    assert "BertForTokenClassification" in values["secateurs"]["edits"]["heads"]
    del values["secateurs"]["edits"]["heads"]["BertForTokenClassification"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="how the head of BertForTokenClassification"):
        load(folder, auto_class="AutoModelForTokenClassification")
    assert same(outputs(load(folder)), outputs(model))


def test_a_tensor_of_the_head_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = save(pruned("bert"), None, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    values["secateurs"]["edits"]["heads"]["BertForTokenClassification"]["classifier.weight"] = [None, 20]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"classifier\.weight has shape \(5, 21\).*\(5, 20\)"):
        load(folder)
    assert load_file(folder / "model.safetensors")["classifier.weight"].shape == (5, 21)


def test_the_model_can_be_trained_further(tmp_path: Path) -> None:
    model = fill(pruned("gpt2"), 1).float().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        loss = model(**batch(), labels=batch()["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again = load(save(model.eval(), None, tmp_path / "model"))
    assert (outputs(again) - outputs(model)).abs().max() < 1e-6
