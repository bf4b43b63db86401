"""A run plans its stages, tells the time left after each, and the best figures of its targets."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from rich.logging import RichHandler

import secateurs
import tiny_run
from secateurs.pipeline import run_plan
from secateurs.pipeline.estimates import Pass
from secateurs.pipeline.load import load
from secateurs.pipeline.run_progress import RunProgress


def seconds_of(recipe: secateurs.Recipe, folder: Path, *, resumed: bool = False) -> float:
    """Predicted seconds of a run."""
    progress, loaded = RunProgress(lambda: 0.0), load(recipe)
    run_plan.plan_run(
        progress, loaded, folder, tiny_run.LatencyTable.load(Path(str(recipe.latency_table))), resumed=resumed
    )
    left = progress.seconds_left()
    assert left is not None
    return left


def test_every_stage_tells_the_time_left(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("", "secateurs"):  # a test of the command line may have left its handler, which writes log lines
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [own for own in logger.handlers if not isinstance(own, RichHandler)])
    recipe, progress = tiny_run.recipe(tmp_path), RunProgress()
    caplog.set_level("INFO", logger="secateurs.pipeline.stage_timer")
    report = secateurs.run(recipe, tmp_path / "out", progress=progress)
    lines = [record.getMessage() for record in caplog.records if record.name == "secateurs.pipeline.stage_timer"]
    told = [re.match(r"([a-z ]+): [\d.]+ s; about [\d.]+ (?:s|min|h) left for the run;", line) for line in lines]
    assert all(told), lines
    one = ["search", "fit", "evaluate", "time"]
    assert [match[1] for match in told if match] == ["load", "latency", "evaluate dense", "prepare", *one, *one]
    assert progress.seconds_left() == 0
    for model in report.models:
        best = progress.best[f"{model.target:.2f}x"]
        assert model.measured_speedup is not None
        assert (best.speedup, best.saved) == (model.measured_speedup.median, True)
        assert model.divergence is not None
        assert re.fullmatch(rf"accuracy [\d.]+ \(dense [\d.]+\), .* {model.divergence.value:.3g}", best.quality)
    out, err = capsys.readouterr()
    assert out == ""  # the library is silent, but for the bars of transformers
    assert "the run" not in err


def test_what_is_done_already_takes_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_plan, "timed_pass", lambda loaded, number: Pass(1.0, 1.0, 4.0))
    recipe = tiny_run.recipe(tmp_path)
    stages = tmp_path / "out" / "stages"
    stages.mkdir(parents=True)
    whole = seconds_of(recipe, tmp_path / "out")
    (stages / "dense.json").write_text("{}")
    assert (
        whole - seconds_of(recipe, tmp_path / "out", resumed=True) == 16
    )  # a pass for each row of the validation split
    (stages / "speedup-1.50x.json").write_text("{}")
    one = seconds_of(recipe, tmp_path / "out", resumed=True)
    assert one < seconds_of(recipe.model_copy(update={"recover_epochs": 1.0}), tmp_path / "out", resumed=True)
    (stages / "speedup-2.00x.json").write_text("{}")
    assert seconds_of(recipe, tmp_path / "out", resumed=True) == 0


def test_steering_takes_time_where_timings_here_judge_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_run.recipe(tmp_path)
    monkeypatch.setattr(run_plan, "timed_pass", lambda loaded, number: Pass(1.0, 1.0, 4.0))
    given = seconds_of(recipe, tmp_path / "out")
    monkeypatch.setattr(run_plan, "measured_here", lambda *_: True)
    steered = seconds_of(recipe, tmp_path / "out")
    # Two targets, usually two attempts each, with three processes of 8 to 25 seconds.
    assert steered - given == pytest.approx(2 * 2 * 3 * (8 * 25) ** 0.5)
