"""Every method prunes a model that has one prunable group left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs
import tiny_run
from secateurs.checkpoint import save_load
from secateurs.methods import names
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from tiny import tiny_tokenizer
from tiny_models import tiny_model

MATRIX = {"heads": "*attention.output.dense", "intermediate": "*layer.0.output.dense"}
"""Pattern of the one matrix that methods of matrices prune."""

OF_MATRICES = ("agp", "agp_unstructured", "fac", "flop", "neuron_pruning")

FEW: dict[str, Any] = {"search_samples": 8, "probes": 3, "rounds": 1, "steps": 3}

WAYS: dict[str, dict[str, Any]] = {
    **{name: {"method": name, **tiny_run.SMALL.get(name, {"hyperparameters": {}})} for name in names()},
    "ziplm": {"method": "ziplm", "hyperparameters": FEW},
    "ziplm as published": {"method": "ziplm", **tiny_run.SMALL["ziplm"]},
    "ziplm with low ranks": {"method": "ziplm", "hyperparameters": {**FEW, "allow": "rank"}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of one layer: one lost its feed-forward block, the other its attention."""
    root = tmp_path_factory.mktemp("one-group")
    for kept in MATRIX:
        model: Any = tiny_model(
            "bert", auto="AutoModelForSequenceClassification", num_labels=2, pad_token_id=0, num_hidden_layers=1
        ).float()
        structure = discover(model)
        mask = Mask({group.name: torch.full((group.size,), group.name.endswith(kept)) for group in structure})
        save_load.save(shrink(model, structure, mask), tiny_tokenizer(), root / kept / "model")
        tiny_run.rows(root / kept / "data")
    return root


@pytest.mark.parametrize("kept", MATRIX)
@pytest.mark.parametrize("way", WAYS)
def test_one_group_is_enough(place: Path, tmp_path: Path, way: str, kept: str) -> None:
    how = dict(WAYS[way])
    hyperparameters = dict(how.pop("hyperparameters"))
    if how["method"] in OF_MATRICES:
        hyperparameters["matrices"] = MATRIX[kept]
    learned = way in ("cofi", *OF_MATRICES)
    target = {"speedup": (), "sparsity": (0.4,)} if learned else {"speedup": (1.1,)}
    options = {"latency_table": None, "train_batch_size": 8, **how, **target, "hyperparameters": hyperparameters}
    recipe = tiny_run.own_table(tiny_run.recipe(place / kept, **options), tmp_path / "latency.json")
    (result,) = secateurs.run(recipe, tmp_path / "out").models
    if way != "ziplm with low ranks":  # which may keep all units, at lower ranks
        ((_, group),) = result.kept.items()
        assert group.size == {"heads": 4, "intermediate": 20}[kept] or way in OF_MATRICES
    assert result.divergence is not None
