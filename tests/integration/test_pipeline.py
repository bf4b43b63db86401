"""Complete runs: what a run writes, that it resumes after a kill, and that the saved models are as the report says."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.methods import method as find_method
from secateurs.methods import names as method_names
from secateurs.pipeline import one_target
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import resolved
from secateurs.report.report import Report
from secateurs.report.terminal import table
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Report]:
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny_run.recipe(folder)
    return folder / "out", recipe, secateurs.run(recipe, folder / "out")


def test_the_folder_holds_what_the_report_says(finished: tuple[Path, Recipe, Report]) -> None:
    out, recipe, report = finished
    for name in ("recipe.yaml", "latency.json", "report.json", "report.html"):
        assert (out / name).is_file(), name
    assert Recipe.load(out / "recipe.yaml") == resolved(recipe)
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


def test_a_larger_target_costs_more_quality(finished: tuple[Path, Recipe, Report]) -> None:
    slow, fast = finished[2].models
    assert slow.parameters > fast.parameters
    assert slow.divergence is not None
    assert fast.divergence is not None
    assert 0 < slow.divergence.value < fast.divergence.value


def test_a_run_killed_in_every_stage_ends_the_same(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Killed before the level database is on disk, in the search, and in the refit."""
    done, recipe, _ = finished
    for number, (stage, item) in enumerate((("order the units", 1), ("responses", 0), ("fit to the pruned model", 1))):
        with pytest.raises(tiny_run.Killed, match=stage):
            secateurs.run(recipe, tmp_path / "out", track=tiny_run.kill_at(stage, item), resume=number > 0)
    assert not (tmp_path / "out" / "speedup-1.50x").exists()
    secateurs.run(recipe, tmp_path / "out", resume=True)
    for target in recipe.targets:
        name = f"{target.folder}/mask.safetensors"
        assert Mask.load(tmp_path / "out" / name) == Mask.load(done / name)
        weights = f"{target.folder}/model.safetensors"
        assert (tmp_path / "out" / weights).read_bytes() == (done / weights).read_bytes()


def test_sigkill_between_two_targets(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """A real kill of a process; the finished target is left as it is."""
    done, recipe, _ = finished
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    script = (
        "import os, signal, sys; import secateurs; from secateurs.latency import fresh_processes, timing_process\n"
        "from secateurs.pipeline.contract import Contract\n"
        "from secateurs.pipeline.recipe import Recipe\n"
        "fresh_processes.run_process, fresh_processes.SECONDS = timing_process.answer, 0.05\n"
        "settle = Contract.settle\n"
        "def second(self):\n"
        "    if '2.00' in self.folder.name: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return settle(self)\n"
        "Contract.settle = second\n"
        "secateurs.run(Recipe.load(sys.argv[1]), sys.argv[2])\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), str(out)]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert (out / "speedup-1.50x").is_dir()
    assert not (out / "report.json").exists()
    report = secateurs.run(recipe, out, resume=True)
    assert len(report.models) == 2
    for target in recipe.targets:
        name = f"{target.folder}/mask.safetensors"
        assert Mask.load(out / name) == Mask.load(done / name)


def test_a_folder_in_use_is_refused(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    out, recipe, _ = finished
    with pytest.raises(RecipeError, match="not empty"):
        secateurs.run(recipe, out)
    with pytest.raises(RecipeError, match="seed differ"):
        secateurs.run(recipe.model_copy(update={"seed": 5}), out, resume=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("x")
    with pytest.raises(RecipeError, match="no run"):
        secateurs.run(recipe, tmp_path / "else", resume=True)


def test_an_unreachable_target_is_refused_before_the_work(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    _, recipe, _ = finished
    with pytest.raises(TargetUnreachable, match=r"Speedup 50 is unreachable .* gives \d") as caught:
        secateurs.run(recipe.model_copy(update={"speedup": (50.0,)}), tmp_path / "out")
    assert caught.value.largest is not None
    assert not (tmp_path / "out" / "stages" / "levels").exists()


@pytest.mark.parametrize("method", method_names())
def test_every_method_meets_its_target_and_is_shrunk_exactly(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """``method_names`` finds the file of a new method, which is then tested here."""
    shrunk_copy, shrunk = one_target.shrunk_copy, []

    def checked(model: nn.Module, structure: Structure, mask: Mask) -> nn.Module:
        inputs = torch.randint(5, 30, (2, 8), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(input_ids=inputs).logits
            small = shrunk_copy(model, structure, mask)
            torch.testing.assert_close(small(input_ids=inputs).logits, wanted, atol=1e-5, rtol=1e-5)
        shrunk.append(mask.counts)
        return small

    monkeypatch.setattr(one_target, "shrunk_copy", checked)
    small = {"hyperparameters": {}, **tiny_run.SMALL.get(method, {})}
    by_time = find_method(method).by_time
    target = {"speedup": (1.7,)} if by_time else {"speedup": (), "sparsity": (0.4,)}
    recipe = finished[1].model_copy(update={"method": method, **target, **small})
    report = secateurs.run(tiny_run.own_table(recipe, tmp_path / "table.json"), tmp_path / "out")
    (model,) = report.models
    if by_time:
        assert model.predicted_speedup is not None
        assert model.predicted_speedup >= 1.7
    else:
        assert model.met
    assert model.divergence is not None
    assert model.divergence.value > 0
    (counts,) = shrunk
    assert counts == {name: kept.kept for name, kept in model.kept.items()}


def test_the_best_finalist_is_taken(
    finished: tuple[Path, Recipe, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="secateurs")
    how = {**finished[1].hyperparameters, "search_samples": 8}
    recipe = finished[1].model_copy(update={"hyperparameters": how, "speedup": (1.7,)})
    secateurs.run(recipe, tmp_path / "few")
    assert any("no finalists" in message for message in caplog.messages)
    monkeypatch.setattr("secateurs.methods.ziplm.steps.FINALIST_TEXTS", 8)
    monkeypatch.setattr("secateurs.methods.ziplm.steps.FINALISTS_FROM", 16)
    (model,) = secateurs.run(recipe, tmp_path / "enough").models
    fitted = [float(message.split()[3]) for message in caplog.messages if message.startswith("finalist")]
    searches = json.loads((tmp_path / "enough/stages/searches.json").read_text())
    (search,) = [found for found in searches if found["evaluations"]]
    assert len(fitted) > 2
    assert search["value"] == pytest.approx(min(fitted), abs=1e-5)
    assert model.predicted_speedup is not None and model.predicted_speedup >= 1.7


def test_finetuning_lowers_the_divergence(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Random units without a refit lose much, which fine-tuning can win back."""
    random = {"method": "random-units", "hyperparameters": {}, "speedup": (2.0,)}
    (one_shot,) = secateurs.run(finished[1].model_copy(update=random), tmp_path / "one-shot").models
    trained = {**random, "recover_epochs": 12.0, "learning_rate": 3e-3, "train_batch_size": 8}
    (finetuned,) = secateurs.run(finished[1].model_copy(update=trained), tmp_path / "finetuned").models
    assert finetuned.divergence is not None
    assert one_shot.divergence is not None
    assert finetuned.divergence.value < 0.7 * one_shot.divergence.value
    assert finetuned.kept == one_shot.kept
    assert "recover" in finetuned.seconds


def test_question_answering_is_pruned_and_finetuned(tmp_path: Path) -> None:
    """Batches of this task hold more than the inputs of the model, and the model has two outputs."""
    from transformers import AutoModelForQuestionAnswering

    from secateurs.structure.families import discover
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
    (pruned,) = secateurs.run(recipe, tmp_path / "out").models
    assert pruned.metric is not None
    assert pruned.metric.name == "f1"
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out" / pruned.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == pruned.parameters


def test_the_report_lists_what_was_done_on_which_texts(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    recipe = finished[1].model_copy(update={"method": "uniform", "hyperparameters": {}, "speedup": (2.0,)})
    report = secateurs.run(recipe.model_copy(update={"recover_epochs": 1.0}), tmp_path / "out")
    texts = {each.role: each for each in Report.load(tmp_path / "out").texts}
    assert set(texts) == {"fit", "report", "train"}, "uniform does not search"
    assert (texts["fit"].rows, texts["fit"].split) == (32, "train")
    assert (texts["report"].rows, texts["report"].split) == (16, "validation")
    assert texts["train"].rows == 48
    assert report.reported_on == "16 texts of validation"
    assert "the reported divergence is taken" in (tmp_path / "out" / "report.html").read_text()
    assert "on 16 texts of validation" in (tmp_path / "out" / report.models[0].path / "README.md").read_text()
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(report))
    assert "from the dense model, on 16 texts of validation" in console.export_text()
