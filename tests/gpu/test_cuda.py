"""On a GPU: every method and family runs there from end to end, and what comes out is what the CPU would have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from secateurs import pipeline
from secateurs.environment import Environment
from secateurs.families import discover
from secateurs.loading import load
from secateurs.mask import Mask
from secateurs.methods import method as find_method
from secateurs.methods import names as method_names
from secateurs.recipe import Recipe
from secateurs.stages.latency import measure_table
from secateurs.stages.measure import compare
from tiny_models import tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

ZIPLM: dict[str, Any] = {
    "hyperparameters": {"search_samples": 16, "probes": 3, "steps": 3},
    "recover_epochs": 0.5,
}
"""The default, where the CPU's test has the paper's choices."""


def on_gpu(folder: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    changes = {"train_batch_size": 8, "hyperparameters": {}, "device": "cuda", **changes}
    return tiny_run.recipe(folder, model_type, task, **changes)


@pytest.mark.parametrize("name", method_names())
def test_every_method(name: str, tmp_path: Path) -> None:
    by_parameters = find_method(name).by_parameters
    target: dict[str, Any] = {"speedup": (), "sparsity": (0.4,)} if by_parameters else {"speedup": (1.5,)}
    small = ZIPLM if name == "ziplm" else tiny_run.SMALL.get(name, {})
    recipe = on_gpu(tmp_path, method=name.replace("_", "-"), **target, **small)
    recipe = tiny_run.own_table(recipe, tmp_path / "own.json")
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.metric is not None and model.divergence is not None and model.divergence.value > 0
    assert model.latency_ms > 0
    source = load(recipe.model_copy(update={"device": "cpu"}))
    on_cpu, _ = source.task.load(str(tmp_path / "out" / model.path), dtype=torch.float32, device="cpu")
    score = source.task.evaluate(on_cpu, source.data.evaluation, "cpu")
    assert score.value == pytest.approx(model.metric.value, abs=1 / score.count)  # one may lie on the border


@pytest.mark.parametrize(
    ("model_type", "task"), [("distilbert", "text-classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
)
def test_ziplm_on_every_kind_of_family(model_type: str, task: str, tmp_path: Path) -> None:
    recipe = on_gpu(tmp_path, model_type, task, speedup=(1.5,), **ZIPLM)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.parameters < model.dense_parameters


def test_the_gpu_chooses_what_the_cpu_chooses(tmp_path: Path) -> None:
    """Magnitudes are exact enough on both; nothing else differs but where it is computed."""
    masks = []
    for device in ("cpu", "cuda"):
        pipeline.run(on_gpu(tmp_path, method="magnitude", device=device), tmp_path / device)
        masks.append(Mask.load(tmp_path / device / "speedup-1.50x" / "mask.safetensors"))
    assert masks[0] == masks[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latency_is_measured_there(dtype: str) -> None:
    model = tiny_model("bert", auto=None)
    environment = Environment(device="cuda", dtype=dtype, batch_size=4, sequence_length=16)
    table = measure_table(model.float(), discover(model), environment, seed=0)
    assert table.dense_ms > 0 and table.machine["gpu"] == torch.cuda.get_device_name()
    measured = compare({"dense": model, "same": model}, environment, seed=0, seconds=2.0)
    speed = measured.speedups["same"]
    assert speed.low <= speed.median <= speed.high
