"""On a GPU: complete runs of every method and of several families, with the result that the CPU computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs
import tiny_run
from secateurs.latency.compare import compare
from secateurs.latency.environment import Environment
from secateurs.latency.profile import measure_table
from secateurs.methods import method as find_method
from secateurs.methods import names as method_names
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from tiny_models import tiny_model

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    pytest.mark.usefixtures("short_measurements"),
]

ZIPLM: dict[str, Any] = {
    "hyperparameters": {"search_samples": 16, "probes": 3, "steps": 3},
    "recover_epochs": 0.5,
}
"""The default settings; the test on the CPU has those of the paper."""


def on_gpu(folder: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    changes = {"train_batch_size": 8, "hyperparameters": {}, "device": "cuda", **changes}
    return tiny_run.recipe(folder, model_type, task, **changes)


@pytest.mark.parametrize("name", method_names())
def test_every_method_runs(name: str, tmp_path: Path) -> None:
    by_parameters = find_method(name).by_parameters
    target: dict[str, Any] = {"speedup": (), "sparsity": (0.4,)} if by_parameters else {"speedup": (1.5,)}
    small = ZIPLM if name == "ziplm" else tiny_run.SMALL.get(name, {})
    recipe = on_gpu(tmp_path, method=name.replace("_", "-"), **target, **small)
    recipe = tiny_run.own_table(recipe, tmp_path / "own.json")
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.metric is not None and model.divergence is not None and model.divergence.value > 0
    assert model.latency_ms is not None and model.latency_ms > 0
    source = load(recipe.model_copy(update={"device": "cpu"}))
    on_cpu, _ = source.task.load(str(tmp_path / "out" / model.path), dtype=torch.float32, device="cpu")
    score = source.task.evaluate(on_cpu, source.data.evaluation, "cpu")
    one_text = 1 / score.count  # may lie at the decision boundary
    assert score.value == pytest.approx(model.metric.value, abs=one_text)


@pytest.mark.parametrize(
    ("model_type", "task"), [("distilbert", "text-classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
)
def test_ziplm_prunes_other_families(model_type: str, task: str, tmp_path: Path) -> None:
    recipe = on_gpu(tmp_path, model_type, task, speedup=(1.5,), **ZIPLM)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.parameters < model.dense_parameters


def test_the_gpu_keeps_the_units_that_the_cpu_keeps(tmp_path: Path) -> None:
    """Magnitudes are exact enough on both devices to give the same order."""
    masks = []
    for device in ("cpu", "cuda"):
        secateurs.run(on_gpu(tmp_path, method="magnitude", device=device), tmp_path / device)
        masks.append(Mask.load(tmp_path / device / "speedup-1.50x" / "mask.safetensors"))
    assert masks[0] == masks[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latency_is_measured_on_the_gpu(dtype: str) -> None:
    model = tiny_model("bert", auto=None)
    environment = Environment(device="cuda", dtype=dtype, batch_size=4, sequence_length=16)
    table = measure_table(model.float(), discover(model), environment, seed=0)
    assert table.dense_ms > 0 and table.machine["gpu"] == torch.cuda.get_device_name()
    measured = compare({"dense": model, "same": model}, environment, seed=0, seconds=2.0)
    speed = measured.speedups["same"]
    assert speed.low <= speed.median <= speed.high
