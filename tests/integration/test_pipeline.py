"""A whole run: what it writes, that it can be taken up after a kill, and that the result is what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

import tiny_run
from secateurs import pipeline
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.mask import Mask
from secateurs.methods import method as find_method
from secateurs.methods import names as method_names
from secateurs.recipe import Recipe
from secateurs.report import Report


class Killed(BaseException):
    """Stands for a kill: nothing in the library may catch it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Report]:
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny_run.recipe(folder)
    return folder / "out", recipe, pipeline.run(recipe, folder / "out")


def test_the_folder_holds_what_the_report_says(finished: tuple[Path, Recipe, Report]) -> None:
    out, recipe, report = finished
    for name in ("recipe.yaml", "latency.json", "report.json", "report.html"):
        assert (out / name).is_file(), name
    assert Recipe.load(out / "recipe.yaml") == recipe
    written = json.loads((out / "report.json").read_text())
    assert [model["path"] for model in written["models"]] == ["speedup-1.50x", "speedup-2.00x"]
    for model in report.models:
        loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
        assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
        assert model.predicted_speedup is not None
        assert model.predicted_speedup >= model.target
        assert model.metric is not None
        assert model.metric.name == "accuracy"
        assert 0 < model.sparsity < 1
        kept = Mask.load(out / model.path / "mask.safetensors").counts
        assert kept == {name: group.kept for name, group in model.kept.items()}


def test_a_larger_target_costs_more_quality_and_time_is_the_table_s(finished: tuple[Path, Recipe, Report]) -> None:
    slow, fast = finished[2].models
    assert slow.parameters > fast.parameters
    assert slow.divergence is not None
    assert fast.divergence is not None
    assert 0 < slow.divergence.value < fast.divergence.value


@pytest.mark.parametrize("stage", ["order the units", "sensitivity", "fit to the pruned model"])
def test_a_killed_run_ends_with_the_same_masks(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, stage: str
) -> None:
    done, recipe, _ = finished
    started = []

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        for number, item in enumerate(items):
            if title == stage and number == 1:
                started.append(title)
                raise Killed
            yield item

    with pytest.raises(Killed):
        pipeline.run(recipe, tmp_path / "out", track=track)
    assert started, f"no stage reported itself as {stage!r}"
    pipeline.run(recipe, tmp_path / "out", resume=True)
    for target in recipe.targets:
        name = f"{target.folder}/mask.safetensors"
        assert Mask.load(tmp_path / "out" / name) == Mask.load(done / name)
        weights = f"{target.folder}/model.safetensors"
        assert (tmp_path / "out" / weights).read_bytes() == (done / weights).read_bytes()


def test_sigkill(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """The real thing: the process dies between the two targets and is taken up from the command line's own entry."""
    done, recipe, _ = finished
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    script = (
        "import os, signal, sys; from secateurs import contract, pipeline; from secateurs.recipe import Recipe\n"
        "keep = contract.keep\n"
        "def second(target, *args, **kwargs):\n"
        "    if target.value == 2.0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return keep(target, *args, **kwargs)\n"
        "contract.keep = second\n"
        "pipeline.run(Recipe.load(sys.argv[1]), sys.argv[2])\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), str(out)]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert (out / "speedup-1.50x").is_dir()
    assert not (out / "report.json").exists()
    report = pipeline.run(recipe, out, resume=True)
    assert len(report.models) == 2
    for target in recipe.targets:
        name = f"{target.folder}/mask.safetensors"
        assert Mask.load(out / name) == Mask.load(done / name)


def test_a_folder_in_use_is_refused(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    out, recipe, _ = finished
    with pytest.raises(RecipeError, match="not empty"):
        pipeline.run(recipe, out)
    with pytest.raises(RecipeError, match="seed differ"):
        pipeline.run(recipe.model_copy(update={"seed": 5}), out, resume=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("x")
    with pytest.raises(RecipeError, match="no run"):
        pipeline.run(recipe, tmp_path / "else", resume=True)


def test_an_unreachable_target_is_refused_before_the_work(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    _, recipe, _ = finished
    with pytest.raises(TargetUnreachable, match=r"Speedup 50 is unreachable .* gives \d") as caught:
        pipeline.run(recipe.model_copy(update={"speedup": (50.0,)}), tmp_path / "out")
    assert caught.value.largest is not None
    assert not (tmp_path / "out" / "stages" / "levels.safetensors").exists()


@pytest.mark.parametrize("method", method_names())
def test_every_method_keeps_the_budget_and_the_law(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, method: str
) -> None:
    """A new method file is tested here without being named."""
    small = {"hyperparameters": {}, **tiny_run.SMALL.get(method, {})}
    by_time = find_method(method).by_time
    target = {"speedup": (1.7,)} if by_time else {"speedup": (), "sparsity": (0.4,)}
    recipe = finished[1].model_copy(update={"method": method, **target, **small})
    report = pipeline.run(tiny_run.own_table(recipe, tmp_path / "table.json"), tmp_path / "out")
    (model,) = report.models
    if by_time:
        assert model.predicted_speedup is not None
        assert model.predicted_speedup >= 1.7
    else:
        assert model.met
    assert model.divergence is not None
    assert model.divergence.value > 0


def test_finalists_are_fitted_and_the_best_of_them_is_handed_over(
    finished: tuple[Path, Recipe, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="secateurs")
    how = {**finished[1].hyperparameters, "search_samples": 8}
    recipe = finished[1].model_copy(update={"hyperparameters": how, "speedup": (1.7,)})
    pipeline.run(recipe, tmp_path / "few")
    assert any("no finalists" in message for message in caplog.messages)
    monkeypatch.setattr("secateurs.methods._searches.FITTED", 8)
    (model,) = pipeline.run(recipe, tmp_path / "enough").models
    fitted = [float(message.split()[3]) for message in caplog.messages if message.startswith("finalist")]
    (past,) = [
        found for found in json.loads((tmp_path / "enough/stages/searches.json").read_text()) if found["evaluations"]
    ]
    assert len(fitted) > 2
    assert past["value"] == pytest.approx(min(fitted), abs=1e-5)
    assert model.predicted_speedup is not None and model.predicted_speedup >= 1.7


def test_recovery_brings_the_outputs_nearer(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Random units without refitting leave much to recover."""
    lot = {"method": "random", "hyperparameters": {}, "speedup": (2.0,)}
    (one_shot,) = pipeline.run(finished[1].model_copy(update=lot), tmp_path / "one-shot").models
    trained = {**lot, "recover_epochs": 12.0, "learning_rate": 3e-3, "train_batch_size": 8}
    (recovered,) = pipeline.run(finished[1].model_copy(update=trained), tmp_path / "recovered").models
    assert recovered.divergence is not None
    assert one_shot.divergence is not None
    assert recovered.divergence.value < 0.7 * one_shot.divergence.value
    assert recovered.kept == one_shot.kept
    assert "recover" in recovered.seconds


def test_a_reader_of_contexts_is_pruned_and_recovered(tmp_path: Path) -> None:
    """A task whose batches hold more than the model takes, and whose model has two outputs."""
    from transformers import AutoModelForQuestionAnswering

    from secateurs.families import discover
    from secateurs.tasks import task
    from tiny import WORDS, tiny_tokenizer, write_rows
    from tiny_models import tiny_model

    model = tiny_model("bert", auto="AutoModelForQuestionAnswering", num_labels=2, pad_token_id=0).float()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    tiny_run.table(discover(model), tmp_path / "latency.json")
    texts = [" ".join(WORDS[i % 9 : i % 9 + 5 + i % 11]) for i in range(40)]
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.parquet", **task("question_answering").example(texts))
    recipe = tiny_run.recipe(tmp_path, task="question-answering", speedup=1.5, recover_epochs=0.2)
    (pruned,) = pipeline.run(recipe, tmp_path / "out").models
    assert pruned.metric is not None
    assert pruned.metric.name == "f1"
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out" / pruned.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == pruned.parameters
