"""A model whose saved folder misses its target is built again, for methods with and without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import secateurs
import tiny_run
from secateurs.latency import fresh_processes
from secateurs.methods.baselines._gradual import GradualFitted
from secateurs.pipeline import contract, one_target
from secateurs.structure.mask import Mask
from secateurs.tasks import task as find
from tiny_latency import by_parameters


@pytest.fixture
def misses(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The first confirmation misses, all others pass; what was said of each. The table counts as measured here."""
    monkeypatch.setattr(fresh_processes, "run_process", by_parameters)
    said: list[bool] = []

    def first_one_misses(target: float, confirmed: Any) -> bool:
        said.append(bool(said))
        return said[-1]

    monkeypatch.setattr(contract, "is_met", first_one_misses)
    monkeypatch.setattr(one_target, "measured_here", lambda *_: True)
    return said


@pytest.mark.parametrize("method", ["magnitude", "agp"])
def test_a_miss_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misses: list[bool], method: str
) -> None:
    trained: list[Any] = []
    train = GradualFitted.train_while_pruning

    def counted(self: Any, budget: Any, allocation: Any) -> None:
        trained.append(allocation)
        train(self, budget, allocation)

    monkeypatch.setattr(GradualFitted, "train_while_pruning", counted)
    how = {"hyperparameters": {"steps": 6, "finetuning_steps": 2}} if method == "agp" else {"hyperparameters": {}}
    recipe = tiny_run.recipe(tmp_path, method=method, speedup=(1.3,), train_batch_size=8, **how)
    if method == "agp":
        recipe = tiny_run.own_table(recipe, tmp_path / "ranks.json")
    report = secateurs.run(recipe, tmp_path / "out")
    (result,) = report.models
    built = [trial for trial in result.trials if trial.confirmed is not None]
    assert misses == [False, True]
    assert [trial.met for trial in built] == [False, True]
    assert built[0].kept != built[1].kept
    assert len(trained) == (2 if method == "agp" else 0)
    assert result.met
    assert result.measured_speedup == built[1].confirmed
    assert Mask.load(tmp_path / "out" / result.path / "mask.safetensors").counts == built[1].kept
    loaded, _ = find("text_classification").load(str(tmp_path / "out" / result.path), dtype="float32", device="cpu")
    assert sum(parameter.numel() for parameter in loaded.parameters()) == result.parameters
    assert result.measured_speedup is not None
    assert len(result.measured_speedup.processes) == recipe.timing_processes
    assert not (tmp_path / "out" / "stages" / result.path).exists()
