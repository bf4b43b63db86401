"""``--minutes``: what fits into the time is chosen, kept for a resumed run, and reported; too little time is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secateurs
import tiny_run
from secateurs.errors import RecipeError
from secateurs.pipeline import minutes as minutes_module
from secateurs.pipeline import rehearsal, training_length
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.rehearsal import Pace
from secateurs.pipeline.run_plan import Costs
from secateurs.report.terminal import table

pytestmark = pytest.mark.usefixtures("short_measurements")

MINUTES = 10.0
STEP = 2.0
"""Seconds of a training step, by a rehearsal that is made up: how fast this machine is must not decide a test."""


def recipe(folder: Path, rows: int = 4000, **changes: Any) -> Recipe:
    """A tiny run with enough rows to fill its time with training."""
    given = tiny_run.recipe(folder)
    tiny_run.rows(folder / "data", rows)
    return Recipe.of(
        {
            **given.to_dict(),
            "minutes": MINUTES,
            "speedup": (2.0,),
            "calibration_samples": 256,
            "timing_processes": 3,
            **changes,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def made_up_pace() -> Iterator[list[float]]:
    """Every rehearsal finds the same pace; the time that the training may take is noted."""
    with pytest.MonkeyPatch.context() as patch:
        seconds: list[float] = []

        def rehearse(train: Any, data: Any, collate: Any, **how: Any) -> Pace:
            real = rehearsal.rehearse(train, data, collate, **{**how, "seconds": 0.0})
            assert real.step > 0
            seconds.append(how["seconds"])
            return Pace(1.0, STEP)

        patch.setattr(training_length, "rehearse", rehearse)
        patch.setattr(minutes_module, "measured_costs", lambda loaded: Costs(0.001, 1.0))
        yield seconds


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, short_measurements: None, made_up_pace: list[float]
) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("minutes")
    given = recipe(folder)
    secateurs.run(given, folder / "out")
    return folder / "out", given


def test_training_after_shrinking_takes_the_time_that_is_left(
    finished: tuple[Path, Recipe], made_up_pace: list[float]
) -> None:
    out, _ = finished
    report = secateurs.Report.load(out)
    spent = report.minutes
    assert spent is not None
    assert (spent.promised, spent.texts, spent.most_texts) == (MINUTES, 256, 256)
    [training] = spent.trainings
    assert (training.stage, training.target, training.most) == ("recover", "2.00x", False)
    [ends] = json.loads((out / "stages" / "minutes.json").read_text())["ends"].values()
    planned = ends[0][1]
    assert training.epochs == pytest.approx(training.steps * 32 / 4000)
    # The real stages take seconds of the ten minutes, or a few minutes where the machine has other work.
    assert 0.4 * 60 * MINUTES < training.seconds == 1 + STEP * planned < 60 * MINUTES
    # The steps took less than their rehearsal said, so there were more of them.
    assert planned < training.steps == ends[-1][1] <= 4 * planned
    assert made_up_pace[0] == pytest.approx(0.05 * training.seconds, rel=0.1)
    assert "texts to fit; training after shrinking for 2.00x" in spent.sentence()
    assert spent.sentence() in str(table(report).caption)
    assert f"Minutes: {MINUTES:g} were asked for" in (out / "report.html").read_text()
    assert "recover_epochs: null" in (out / "recipe.yaml").read_text()


def test_a_resumed_run_makes_the_same_choice(finished: tuple[Path, Recipe], tmp_path: Path) -> None:
    out, given = finished
    stages = tmp_path / "out" / "stages"
    stages.mkdir(parents=True)
    (tmp_path / "out" / "recipe.yaml").write_text((out / "recipe.yaml").read_text())
    stored = json.loads((out / "stages" / "minutes.json").read_text())
    [name] = stored["trainings"]
    assert name == "speedup-2.00x/attempt-1/recover"
    stored["texts"], stored["spent"] = 160, 12.0
    stored["trainings"][name]["steps"], stored["ends"][name] = 7, [[0, 7]]
    (stages / "minutes.json").write_text(json.dumps(stored))
    report = secateurs.run(given, tmp_path / "out", resume=True)
    assert report.minutes is not None
    assert report.minutes.texts == 160
    assert [length.steps for length in report.minutes.trainings] == [7]
    assert {texts.role: texts.rows for texts in report.texts}["fit"] == 160
    assert report.minutes.took > 12 / 60


def test_data_that_are_used_up_end_a_run_early(tmp_path: Path) -> None:
    given = recipe(tmp_path, rows=200, minutes=30.0)
    report = secateurs.run(given, tmp_path / "out")
    assert report.minutes is not None
    [training] = report.minutes.trainings
    assert training.epochs == pytest.approx(20, abs=0.2)  # 125 steps of 32 rows
    assert report.minutes.used_all
    assert "It ended early: all" in report.minutes.sentence()


def test_too_few_minutes_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minutes_module, "measured_costs", lambda loaded: Costs(0.001, 60.0))
    given = recipe(tmp_path, rows=100, timing_processes=20)
    with pytest.raises(
        RecipeError, match=r"10 minutes are too few: the smallest run takes about 2\d\.\d here"
    ) as refused:
        secateurs.run(given, tmp_path / "out")
    assert "minutes, or fewer than 20 timing_processes or evaluation_samples" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["cofi", "flop", "agp", "fac", "neuron_pruning"])
def test_masks_are_trained_for_their_share(tmp_path: Path, method: str) -> None:
    own: dict[str, Any] = {"hyperparameters": {"steps": 400}}
    if method != "fac":
        own["hyperparameters"]["finetuning_steps"] = 200
    given = recipe(tmp_path, rows=300, method=method.replace("_", "-"), speedup=(), sparsity=(0.3,), **own)
    report = secateurs.run(tiny_run.own_table(given, tmp_path / "own.json"), tmp_path / "out")
    assert report.minutes is not None
    stages = {length.stage: length for length in report.minutes.trainings}
    masks = {"agp": ["train while pruning"], "fac": []}.get(method, ["train gates"])
    assert list(stages) == [*masks, "recover"]
    shares = {stage: length.steps for stage, length in stages.items()}
    assert 100 <= shares.get(masks[0], 100) < 400 if masks else shares["recover"] > 100
    assert report.minutes.texts is None
    assert report.models[0].met
