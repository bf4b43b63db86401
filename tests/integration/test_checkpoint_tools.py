"""Pruned models and other tools: pickle, several processes, and the linear modules that tools look for."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from masks import two_blocks_removed, uneven
from secateurs.checkpoint.hooks import install
from secateurs.checkpoint.save_load import load, save
from secateurs.modeling.pruned_modules import is_emptied
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.input_selection import input_groups
from secateurs.surgery.shrink import shrink, zero_masked
from tiny import tiny_tokenizer
from tiny_models import batch, tiny_model

install()


def blocks_removed(model: Any) -> Any:
    structure = discover(model)
    return shrink(model, structure, two_blocks_removed(structure))


def low_rank(model: Any) -> Any:
    """Matrices of ranks 0, 3, 5 and of full rank, in a model without two blocks."""
    blocks_removed(model)
    factorize(model, matrices(model))
    groups = rank_groups(model)
    kept = {g.name: torch.arange(min(g.size, (0, 3, 5, g.size)[index % 4])) for index, g in enumerate(groups)}
    return shrink(model, groups, Mask.from_units(groups, kept))


def selected(model: Any) -> Any:
    """Matrices that use two thirds of their inputs, and one that uses none."""
    groups = input_groups(model)
    kept = {g.name: torch.arange(g.size) % 3 != 1 for g in groups}
    kept[groups.groups[1].name][:] = False
    return shrink(model, groups, Mask(kept))


def hidden(model: Any) -> Any:
    structure = discover(model, hidden=True)
    return shrink(model, structure, two_blocks_removed(structure))


def masked(model: Any) -> Any:
    """A model with masked norms, and with skipped norms where blocks were removed before."""
    blocks_removed(model)
    structure = discover(model, hidden=True)
    zero_masked(model, structure, uneven(structure))
    return model


RESULTS: dict[str, Callable[[Any], Any]] = {
    "blocks removed": blocks_removed,
    "low rank": low_rank,
    "selected inputs": selected,
    "hidden size": hidden,
}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(padding="right")).logits


@pytest.mark.parametrize("made", [*RESULTS.values(), masked])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_pruned_model_is_pickled_and_copied(model_type: str, made: Callable[[Any], Any]) -> None:
    model = made(tiny_model(model_type))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
        assert torch.equal(logits(again), logits(model))


def test_a_pickle_is_read_by_another_process(tmp_path: Path) -> None:
    model = blocks_removed(tiny_model("bert"))
    torch.save({"model": model, "inputs": dict(batch()), "wanted": model(**batch()).logits}, tmp_path / "model.pt")
    code = (
        f"import torch; found = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "assert torch.equal(found['model'](**found['inputs']).logits, found['wanted'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("remote", [False, True])
def test_sentence_transformers_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = save(blocks_removed(tiny_model("bert", auto="AutoModel").float()), tiny_tokenizer(), tmp_path / "model")
    body = Transformer(
        str(folder), model_kwargs={"trust_remote_code": remote}, config_kwargs={"trust_remote_code": remote}
    )
    encoder = SentenceTransformer(modules=[body, Pooling(32)], device="cpu")
    assert type(body.auto_model).__module__.startswith("transformers_modules") == remote
    texts = ["the cat sat", "on the mat"]
    pool = encoder.start_multi_process_pool(["cpu"])
    try:
        found = encoder.encode(texts, pool=pool, chunk_size=1)
    finally:
        encoder.stop_multi_process_pool(pool)
    assert torch.allclose(torch.tensor(found), torch.tensor(encoder.encode(texts)), atol=1e-6)


@pytest.mark.parametrize("made", RESULTS.values())
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_no_linear_module_is_empty(model_type: str, made: Callable[[Any], Any], tmp_path: Path) -> None:
    """Neither in memory, nor after loading. The emptied modules keep their parameters under the same names."""
    dense = set(tiny_model(model_type).state_dict())
    model = made(tiny_model(model_type))
    for each in (model, load(save(model, None, tmp_path / "model"))):
        for module in each.modules():
            assert not (isinstance(module, nn.Linear | Conv1D) and module.weight.numel() == 0)
        assert any(map(is_emptied, each.modules()))
        if made in (blocks_removed, hidden):
            assert set(each.state_dict()) == dense
