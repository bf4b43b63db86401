"""Saved models with pairs of factors: they load in every way, and can be pruned again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.errors import CheckpointError
from secateurs.modeling.pruned_modules import is_factored
from secateurs.numerics.low_rank import break_even
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.surgery.config_block import block_of
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.shrink import shrink
from tiny_models import auto_name, batch, tiny_model

install()
TYPES = model_types()
TOLERANCE = 1e-12


def low_rank(model: Any, *, heads: bool = False) -> Any:
    """Factorise a model and prune its ranks: to 0, to a few, and to the full rank, which is multiplied back.

    With ``heads``, heads and neurons are pruned before and after.
    """
    if heads:
        cut(model, 1)
    factorize(model, matrices(model))
    groups = rank_groups(model)
    counts = {g.name: min(g.size, (0, 3, 5, g.size)[index % 4]) for index, g in enumerate(groups)}
    shrink(model, groups, Mask.from_units(groups, {name: torch.arange(count) for name, count in counts.items()}))
    if heads:
        cut(model, 2)
    return model


def cut(model: Any, layer: int) -> None:
    groups = discover(model)
    kept = {g.name: torch.arange(g.size) > 0 for g in groups}
    kind = Kind.HEAD if layer == 2 else Kind.INTERMEDIATE
    for name in [group.name for group in groups if group.kind is kind][layer : layer + 1]:  # ALBERT has one layer
        kept[name][:] = False
    shrink(model, groups, Mask(kept))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch(model, padding="right"))
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def auto_of(model_type: str) -> Any:
    return getattr(transformers, auto_name(model_type))


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_saved_model_is_loaded(model_type: str, heads: bool, tmp_path: Path) -> None:
    model = low_rank(tiny_model(model_type), heads=heads)
    assert {3, 5} & set(block_of(model)["edits"]["factored"].values())
    wanted = logits(model)
    folder = save(model, None, tmp_path / "model")
    for read in (load, auto_of(model_type).from_pretrained, type(model).from_pretrained):
        again = read(folder)
        assert (logits(again) - wanted).abs().max() < TOLERANCE
        assert {n: v.shape for n, v in again.state_dict().items()} == {
            n: v.shape for n, v in model.state_dict().items()
        }
    assert block_of(again) == block_of(model)
    base = transformers.AutoModel.from_pretrained(folder)
    assert [p.rank for p in base.modules() if is_factored(p)] == [p.rank for p in model.modules() if is_factored(p)]
    built = auto_of(model_type).from_config(transformers.AutoConfig.from_pretrained(folder))
    assert [p.shape for p in built.parameters()] == [p.shape for p in model.parameters()]
    assert all(torch.isfinite(p).all() for p in built.parameters())


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_it_is_pruned_again(model_type: str, tmp_path: Path) -> None:
    model = low_rank(tiny_model(model_type))
    again = load(save(model, None, tmp_path / "model"))
    for each in (model, again):
        ranks = rank_groups(each)
        shrink(each, ranks, Mask({group.name: torch.arange(group.size) > 0 for group in ranks}))
        cut(each, 1)
    assert block_of(again) == block_of(model)
    assert (logits(load(save(again, None, tmp_path / "more"))) - logits(model)).abs().max() < TOLERANCE


def test_a_model_without_pairs_left_needs_no_code(tmp_path: Path) -> None:
    """If every pair keeps its full rank, the result is an ordinary model."""
    model = tiny_model("bert")
    wanted = logits(model)
    factorize(model, matrices(model))
    groups = rank_groups(model)
    folder = save(shrink(model, groups, Mask.full(groups)), None, tmp_path / "model")
    assert not (folder / "modeling_pruned.py").exists()
    assert (logits(load(folder)) - wanted).abs().max() < TOLERANCE


def test_a_dtype_a_device_map_and_another_head(tmp_path: Path) -> None:
    model = low_rank(tiny_model("bert"))
    folder = save(model, None, tmp_path / "model")
    half = auto_of("bert").from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    placed = auto_of("bert").from_pretrained(folder, device_map="cpu")
    assert (logits(placed) - logits(model)).abs().max() < TOLERANCE
    other, info = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"qa_outputs"}
    pair = "encoder.layer.2.attention.self.key"
    assert torch.equal(other.bert.get_submodule(pair).first.weight, model.bert.get_submodule(pair).first.weight)


def test_paths_of_another_version_are_named(tmp_path: Path) -> None:
    folder = save(low_rank(tiny_model("bert")), None, tmp_path / "model")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"encoder.layer', '"transformer.blocks'))
    with pytest.raises(CheckpointError, match=r"names transformer\.blocks\.0\.attention.*use that version"):
        load(folder)


def test_the_block_holds_the_ranks(tmp_path: Path) -> None:
    model = low_rank(tiny_model("gpt2"))
    values = json.loads((save(model, None, tmp_path / "model") / "config.json").read_text())["secateurs"]
    ranks = values["edits"]["factored"]
    assert ranks["h.0.attn.c_attn"] == 0 and ranks["h.0.attn.c_proj"] == 3
    assert "h.0.mlp.c_proj" not in ranks, "its rank is above break-even"
    assert values["groups"]["layer.0.mlp.c_proj.rank"] == {"kind": "rank", "size": 20, "kept": 20}
    assert values["edits"]["shapes"]["h.0.mlp.c_proj.weight"] == [20, 32]
    assert break_even(20, 32) < 20
