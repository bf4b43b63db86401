"""``gradual: true``: every model is pruned from the one before it, and all is compared with the dense model."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.artifacts import read_json, write_json
from secateurs.errors import CheckpointError, RecipeError
from secateurs.methods.ziplm import steps
from secateurs.pipeline import one_target
from secateurs.pipeline.gradual_start import finished_start
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.mask import Mask
from tiny_gradual import FOLDERS, family, masks

TRAINED = "bert.encoder.layer.0.output.LayerNorm.weight"
"""A parameter that nothing cuts and a training changes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gradual")


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, Recipe, Report]:
    recipe = family(place)
    return place / "out", recipe, secateurs.run(recipe, place / "out")


def weights(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("speedup-*/model.safetensors"))}


def test_every_model_has_units_of_the_one_before_it(finished: tuple[Path, Recipe, Report]) -> None:
    out, recipe, report = finished
    assert [(model.path, model.start) for model in report.models] == list(zip(FOLDERS, ("", *FOLDERS), strict=False))
    sizes = load(recipe).structure.sizes
    kept = masks(out)
    for model in report.models:
        assert {name: group.size for name, group in model.kept.items()} == sizes, (
            "shares are not those of the dense model"
        )
        assert {name: group.kept for name, group in model.kept.items()} == kept[model.path].counts
        assert model.predicted_speedup is not None and model.predicted_speedup >= model.target
        loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
        assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
        assert model.parameters < model.dense_parameters == report.models[0].dense_parameters
    for larger, smaller in pairwise(FOLDERS):
        assert kept[larger] & kept[smaller] == kept[smaller]
    assert any(count == 0 for count in kept[FOLDERS[1]].counts.values()), "no step begins without a group"
    card = (out / FOLDERS[1] / "README.md").read_text()
    assert "pruned from the finished model speedup-1.50x of the same run" in card
    assert any(note.startswith("Gradual: each model was pruned from the finished one") for note in report.notes)
    assert list((out / "stages" / "gradual").iterdir()) == [], "level databases of finished steps stay on disk"


def test_the_first_model_is_that_of_a_run_without_gradual(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    out, recipe, _ = finished
    secateurs.run(recipe.model_copy(update={"speedup": (1.5,), "gradual": False}), tmp_path / "out")
    assert weights(tmp_path / "out")[FOLDERS[0]] == weights(out)[FOLDERS[0]]


def test_each_step_trains_the_model_before_it_on_the_dense_outputs(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, recipe, _ = finished
    seen: list[tuple[Tensor, Tensor, int]] = []
    train: Callable[..., Any] = one_target.train

    def watched(model: Any, objective: Any, *given: Any, seed: int, **how: Any) -> Any:
        begun = model.get_parameter(TRAINED).detach().clone()
        done = train(model, objective, *given, seed=seed, **how)
        for name, tensor in load_file(f"{recipe.model}/model.safetensors").items():
            torch.testing.assert_close(objective.teacher.state_dict()[name], tensor, atol=0, rtol=0)
        seen.append((begun, model.get_parameter(TRAINED).detach().clone(), seed))
        return done

    grids: list[Any] = []
    options: Callable[..., Any] = steps.level_options
    monkeypatch.setattr(one_target, "train", watched)
    monkeypatch.setattr(steps, "level_options", lambda *given: grids.append(given[-1]) or options(*given))
    secateurs.run(recipe, tmp_path / "out")
    dense = load_file(f"{recipe.model}/model.safetensors")[TRAINED]
    before = [dense, *(load_file(out / name / "model.safetensors")[TRAINED] for name in FOLDERS)]
    for number, (begun, ended, _) in enumerate(seen):
        assert torch.equal(begun, before[number])
        assert torch.equal(ended, before[number + 1])
        assert not torch.equal(begun, ended)
    seeds = [seed for *_, seed in seen]
    assert seeds == [0, 200, 300], "every step would see the same batches first"
    assert len(grids) >= 3
    assert all(grid == load(recipe).structure.sizes for grid in grids), "levels of another grid than the dense model's"


KILLS = (("calibrate", 0), ("order the units", 1), ("responses", 0), ("fit to the pruned model", 1))


def test_a_run_killed_in_every_stage_of_the_second_step_ends_the_same(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, recipe, _ = finished
    out = tmp_path / "out"
    shutil.copytree(done, out)
    forget(out, *FOLDERS[1:])
    for stage, item in KILLS:
        with pytest.raises(tiny_run.Killed, match=stage):
            secateurs.run(recipe, out, track=tiny_run.kill_at(stage, item), resume=True)

    def killed(*_: Any, **__: Any) -> None:
        raise tiny_run.Killed("recover")

    with monkeypatch.context() as patch:
        patch.setattr(one_target, "train", killed)
        with pytest.raises(tiny_run.Killed, match="recover"):
            secateurs.run(recipe, out, resume=True)
    assert not (out / FOLDERS[1]).exists()
    secateurs.run(recipe, out, resume=True)
    assert masks(out) == masks(done)
    assert weights(out) == weights(done)


def forget(out: Path, *folders: str) -> None:
    """Undo finished targets."""
    for name in folders:
        shutil.rmtree(out / name)
        (out / "stages" / f"{name}.json").unlink()


def test_sigkill_inside_the_second_step(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """A real kill of a process, when the second model was cut and is about to be trained."""
    done, recipe, _ = finished
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    script = (
        "import os, signal, sys; import secateurs; from secateurs.latency import fresh_processes, timing_process\n"
        "from secateurs.pipeline import one_target\n"
        "from secateurs.pipeline.recipe import Recipe\n"
        "fresh_processes.run_process, fresh_processes.SECONDS = timing_process.answer, 0.05\n"
        "train = one_target.train\n"
        "def second(*given, **how):\n"
        "    if '2.00' in str(given[-1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return train(*given, **how)\n"
        "one_target.train = second\n"
        "secateurs.run(Recipe.load(sys.argv[1]), sys.argv[2])\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), str(out)]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert sorted(masks(out)) == [FOLDERS[0]]
    assert (out / "stages" / "gradual" / FOLDERS[1] / "levels").is_dir()
    secateurs.run(recipe, out, resume=True)
    assert masks(out) == masks(done)


def digests(out: Path) -> dict[str, str]:
    """Path of each file of a model -> digest, with the time of its last change."""
    files = [path for name in out.glob("speedup-*") for path in name.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(out)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in files
    }


def test_a_target_that_is_added_later_goes_on_from_the_largest_smaller_one(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    """It is the model of a run that had the target from the beginning, and no other model changes."""
    done, recipe, _ = finished
    out = tmp_path / "out"
    shutil.copytree(done, out)
    forget(out, FOLDERS[2])
    (out / "recipe.yaml").write_text((out / "recipe.yaml").read_text().replace("- 3.0\n", ""))
    before = digests(out)
    assert {Path(name).parts[0] for name in before} == set(FOLDERS[:2])
    report = secateurs.run(recipe.model_copy(update={"speedup": (3.0,)}), out, resume=True)
    assert [(model.path, model.start) for model in report.models] == list(zip(FOLDERS, ("", *FOLDERS), strict=False))
    assert Recipe.load(out / "recipe.yaml").speedup == (1.5, 2.0, 3.0)
    assert {name: digest for name, digest in digests(out).items() if name in before} == before
    assert masks(out) == masks(done)
    assert weights(out) == weights(done)
    between = secateurs.run(recipe.model_copy(update={"speedup": (1.2, 2.5)}), out, resume=True)
    starts = {model.path: model.start for model in between.models}
    assert starts["speedup-1.20x"] == ""
    assert starts["speedup-2.50x"] == FOLDERS[1]
    assert len(starts) == 5


def test_a_step_begins_anew_if_its_start_has_changed(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on the way from 1.5x to 2x, and resumed with 1.75x between them: the allocation of 2x was of another model."""
    done, recipe, _ = finished
    out = tmp_path / "out"
    shutil.copytree(done, out)
    forget(out, *FOLDERS[1:])
    with pytest.raises(tiny_run.Killed):
        secateurs.run(recipe, out, track=tiny_run.kill_at("fit to the pruned model", 1), resume=True)
    attempt = out / "stages" / FOLDERS[1] / "attempt-1" / "measured.json"
    first = read_json(attempt)
    write_json(attempt, {**first, "predicted": 99.0})  # would be reported if it was used again
    asked = recipe.model_copy(update={"speedup": (1.5, 1.75, 2.0)})
    report = secateurs.run(asked, out, resume=True)
    assert [model.start for model in report.models] == ["", "speedup-1.50x", "speedup-1.75x"]
    fast = report.models[-1].predicted_speedup
    assert fast is not None and fast < 50
    kept = masks(out)
    assert kept["speedup-1.75x"] & kept[FOLDERS[1]] == kept[FOLDERS[1]]


def test_a_start_that_is_gone_or_of_another_model_is_refused(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    done, recipe, _ = finished
    out = tmp_path / "out"
    shutil.copytree(done, out)
    forget(out, FOLDERS[2])
    loaded = load(recipe)
    other = Mask({**masks(out)[FOLDERS[1]].kept, "layer.0.heads": torch.ones(2).bool()})
    other.save(out / FOLDERS[1] / "mask.safetensors")
    with pytest.raises(CheckpointError, match=r"speedup-2\.00x was pruned from another model than"):
        finished_start(loaded, out / FOLDERS[1])
    masks(out)[FOLDERS[0]].save(out / FOLDERS[1] / "mask.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the model of its mask: a tensor has another shape"):
        finished_start(loaded, out / FOLDERS[1])
    shutil.rmtree(out / FOLDERS[1])
    with pytest.raises(RecipeError, match=r"3\.00x would be pruned from .*speedup-2\.00x, which is not there"):
        secateurs.run(recipe, out, resume=True)
    auto = recipe.model_copy(update={"speedup": ("auto",)})
    (out / "stages" / "speedup-2.20x.json").write_text("{}")
    (out / "recipe.yaml").write_text((out / "recipe.yaml").read_text().replace("- 3.0\n", "- 2.2\n"))
    with pytest.raises(RecipeError, match=r"has a finished model of 2\.2x, which auto leaves out"):
        secateurs.run(auto, out, resume=True)
