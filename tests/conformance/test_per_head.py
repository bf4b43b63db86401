"""Tensors with one entry for every head that several layers share, such as the position bias of MPNet."""

from __future__ import annotations

import copy
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from remote_code import own_cache
from secateurs.checkpoint.apply_block import apply_block
from secateurs.checkpoint.hooks import suspended
from secateurs.checkpoint.save_load import load, save
from secateurs.modeling.per_head import heads_of, keep_heads
from secateurs.oneshot.levels import Level
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover, model_types
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.config_block import block_of
from secateurs.surgery.shrink import shrink, zero_masked
from tiny_models import auto_name, batch, tiny_model, tiny_structure

TYPES = [name for name in model_types() if any(group.per_head for group in tiny_structure(name))]


def heads(structure: Structure, kept: list[int]) -> Mask:
    """The first attention keeps these heads, and everything else is kept."""
    first = next(group for group in structure if group.kind is Kind.HEAD)
    return Mask.from_units(structure, {first.name: torch.tensor(kept).long()})


def first_block(model: Any) -> Any:
    return model.get_submodule(next(g for g in discover(model) if g.kind is Kind.HEAD).block)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(model, padding="right")).logits


@pytest.mark.parametrize("model_type", TYPES)
def test_the_law_needs_the_indices_of_the_kept_heads(model_type: str) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    blind = Structure(tuple(replace(group, per_head={}) for group in structure))
    mask = heads(structure, [1, 3])
    zero_masked(model, structure, mask)
    wanted = logits(model)
    with pytest.raises(RuntimeError, match="size of tensor"):
        logits(shrink(copy.deepcopy(model), blind, mask))
    small = shrink(copy.deepcopy(model), structure, mask)
    assert (logits(small) - wanted).abs().max() < 1e-12
    keep_heads(first_block(small), dict(structure.groups[0].per_head), [0, 1])
    assert (logits(small) - wanted).abs().max() > 1e-3, "the heads have different biases"


@pytest.mark.parametrize("model_type", TYPES)
def test_copies_pickles_and_folders_keep_the_indices(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    shrink(model, structure, heads(structure, [0, 2, 3]))
    wanted = logits(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    folder = save(model, None, tmp_path / "model")
    with suspended(), own_cache(monkeypatch, tmp_path / "modules"):
        remote = getattr(transformers, auto_name(model_type)).from_pretrained(folder, trust_remote_code=True)
        assert type(remote).__module__.startswith("transformers_modules")
        assert torch.equal(logits(remote), wanted)
        clones = [copy.deepcopy(remote)]
    clones += [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
        load(folder),
    ]
    for clone in clones:
        assert torch.equal(logits(clone), wanted)
        assert tuple(first_block(clone).kept_heads) == (0, 2, 3)
        rest = discover(clone)
        shrink(clone, rest, heads(rest, [1, 2]))  # of the heads that are left
        assert tuple(first_block(clone).kept_heads) == (2, 3)
        entry = next(iter(block_of(clone)["edits"]["per_head"].values()))  # type: ignore[index]
        first = structure.groups[0]
        assert entry == {"group": first.name, "tensors": dict(first.per_head), "kept": [2, 3]}
        json.dumps(entry)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_removed_attention_needs_no_indices(model_type: str) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    shrink(model, structure, heads(structure, [1, 3]))
    rest = discover(model)
    shrink(model, rest, heads(rest, []))
    assert "per_head" not in block_of(model)["edits"]  # type: ignore[index]


@pytest.mark.parametrize("model_type", TYPES)
def test_indices_survive_other_module_paths(model_type: str) -> None:
    """A loader whose transformers has other paths shrinks by counts, and by the heads of the block."""
    model = tiny_model(model_type)
    structure = discover(model)
    shrink(model, structure, heads(structure, [1, 3]))
    block = copy.deepcopy(block_of(model))
    assert block is not None
    block["edits"]["shapes"] = {f"renamed.{path}": shape for path, shape in block["edits"]["shapes"].items()}
    dense = tiny_model(model_type)
    base = getattr(dense, model.base_model_prefix, dense)
    base.config.secateurs = block
    apply_block(base)
    assert tuple(first_block(base).kept_heads) == (1, 3)
    assert base.config.secateurs["edits"]["per_head"] == block_of(model)["edits"]["per_head"]  # type: ignore[index]


@pytest.mark.parametrize("model_type", TYPES)
def test_levels_in_place_select_their_heads_and_give_them_back(model_type: str) -> None:
    model = tiny_model(model_type)
    structure = discover(model)
    shrink(model, structure, heads(structure, [0, 2, 3]))
    before, rest = logits(model), discover(model)
    stitch, group = Stitch(model, rest), rest.groups[0]
    units = torch.tensor([1, 2])
    columns = (units[:, None] * group.width + torch.arange(group.width)).flatten()
    stitch.install(group.name, Level(units, stitch.weight(group.name)[:, columns], stitch.bias(group.name)))
    assert tuple(first_block(model).kept_heads) == (2, 3)
    stitch.reset_all()
    assert torch.equal(logits(model), before)


class Attention(nn.Module):
    """Computes a bias with a method if it is given none, and returns it for the next layer."""

    def table(self, count: int) -> Tensor:
        return torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, count, count)

    def forward(self, scores: Tensor, mask: Any = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        bias = self.table(scores.shape[-1]) if bias is None else bias
        return scores + bias, bias


@pytest.mark.parametrize("kept", [[1, 3], [2], [0, 1], [3, 0, 1]])
def test_the_next_layer_gets_the_tensor_of_all_heads(kept: list[int]) -> None:
    attention, scores = Attention(), torch.zeros(2, len(kept), 3, 3)
    full = attention.table(3)
    keep_heads(attention, {"bias": 1, "table": 1}, kept)
    for arguments, named in (((scores,), {}), ((scores, None, full), {}), ((scores,), {"bias": full})):
        output, bias = attention(*arguments, **named)
        assert torch.equal(output[0, :, 0, 0], torch.tensor(kept, dtype=torch.float))
        assert torch.equal(bias, full)
    assert "table" not in vars(attention)
    for_all = torch.ones(1, 1, 3, 3)
    assert torch.equal(attention(scores, None, for_all)[0], scores + 1), "a tensor of size 1 is for every head"
    keep_heads(attention, {"bias": 1}, None)
    assert heads_of(attention, 4) == (0, 1, 2, 3)
    assert torch.equal(attention(torch.zeros(2, 4, 3, 3), None, full)[0][0], full[0])
