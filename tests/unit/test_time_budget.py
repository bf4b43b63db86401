"""The time of a run with ``minutes`` on a fake clock: predictions are wrong, and the run still ends in time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from secateurs.pipeline.minutes import DOUBT, LEAST_TEXTS, most_texts
from secateurs.pipeline.run_progress import PlannedStage, RunProgress
from secateurs.pipeline.time_budget import LANDING, LATEST, TimeBudget
from secateurs.report.minutes import Minutes, TrainingLength

PASS = 0.01
"""Predicted seconds of a text."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def stages(texts: int, targets: list[str]) -> list[PlannedStage]:
    """What a run is predicted to take with a number of texts."""
    planned = [PlannedStage("prepare", ("prepare",), 5 * texts * PASS, "passes")]
    for target in targets:
        planned += [
            PlannedStage("prune", ("search", "fit"), 60 + 7 * texts * PASS, "search and fit", target),
            PlannedStage("recover", ("recover",), 0.0, "training", target),
            PlannedStage("evaluate", ("evaluate",), 10.0, "passes", target),
            PlannedStage("time", ("time",), 100.0, "processes", target),
        ]
    return planned


def run(minutes: float, wrong: float, targets: list[str], folder: Path, misses: int = 0) -> tuple[float, TimeBudget]:
    """Simulate a run whose stages take ``wrong`` times as long as predicted; a training takes the time chosen for it.

    Returns:
        Minutes that it took, and its choices.
    """
    clock = Clock()
    progress = RunProgress(clock)
    budget = TimeBudget(minutes, progress, folder / "minutes.json")
    clock.now += 40 * wrong  # load, latency table, dense model
    budget.targets_left, budget.most_texts = len(targets), 1024

    def seconds(texts: int) -> tuple[float, float]:
        work = (5 + 7 * len(targets)) * texts * PASS
        return work, sum(stage.seconds for stage in stages(texts, targets)) - work

    budget.texts = most_texts(1024, seconds, LANDING * 60 * minutes - budget.elapsed, DOUBT)
    planned = {(stage.target, stage.name): stage.seconds for stage in stages(budget.texts, targets)}
    progress.plan(stages(budget.texts, targets))

    def take(target: str, name: str, part: str | None = None) -> None:
        clock.now += wrong * planned[target, name]
        progress.end(part or name)

    take("", "prepare")
    for target in targets:
        for build in range(1 + misses):
            if build:
                progress.again(target)
            take(target, "prune", "fit")
            share = max(0.0, budget.share(again=build > 0))
            length = TrainingLength(target, "recover", round(share), 1.0, share, False)
            clock.now += budget.choose(f"{target}/{build}", length).seconds
            progress.end("recover")
            take(target, "evaluate")
            take(target, "time")
        progress.finish(target)
        budget.targets_left -= 1
    budget.save()
    return budget.elapsed / 60, budget


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("targets", [["2x"], ["2x", "3x", "4x"]])
def test_a_run_ends_within_a_fifth_of_its_time(tmp_path: Path, wrong: float, targets: list[str]) -> None:
    minutes = 12.0 * len(targets)
    took, budget = run(minutes, wrong, targets, tmp_path)
    assert took == pytest.approx(minutes, rel=0.2)
    assert budget.texts == 1024
    lengths = [length.seconds for length in budget.trainings.values()]
    assert len(lengths) == len(targets)
    assert min(lengths) > 60
    assert budget.result(trainable=True).kept


def test_a_model_that_missed_its_target_is_trained_again_for_what_is_left(tmp_path: Path) -> None:
    took, budget = run(15.0, 1.0, ["2x"], tmp_path, misses=1)
    first, second = (length.seconds for length in budget.trainings.values())
    assert second < first
    assert 15 < took <= 1.01 * LATEST * 15 or second == 0


def test_little_time_leaves_fewer_texts(tmp_path: Path) -> None:
    chosen = [run(minutes, 1.0, ["2x"], tmp_path / str(minutes))[1].texts for minutes in (4.5, 6.0, 8.0, 30.0)]
    assert chosen == sorted(chosen)
    assert LEAST_TEXTS <= chosen[0] < chosen[-1] == 1024


def test_the_work_of_the_texts_may_take_twice_as_long() -> None:
    assert most_texts(1000, lambda texts: (texts, 100.0), 2100.0, 2.0) == 1000
    assert most_texts(1000, lambda texts: (texts, 100.0), 2099.0, 2.0) == 992
    assert most_texts(1000, lambda texts: (texts, 100.0), 0.0, 2.0) == LEAST_TEXTS
    assert most_texts(50, lambda texts: (texts, 100.0), 0.0, 2.0) == 50


def test_choices_are_read_back_with_the_time_so_far(tmp_path: Path) -> None:
    _, budget = run(12.0, 1.0, ["2x"], tmp_path)
    again = TimeBudget(12.0, RunProgress(Clock()), tmp_path / "minutes.json")
    assert again.begun
    assert (again.texts, again.trainings, again.elapsed) == (budget.texts, budget.trainings, budget.elapsed)
    assert json.loads((tmp_path / "minutes.json").read_text())["minutes"] == 12.0
    assert not TimeBudget(12.0, RunProgress(Clock()), tmp_path / "none.json").begun


def test_the_progress_shows_a_chosen_training(tmp_path: Path) -> None:
    clock = Clock()
    progress = RunProgress(clock)
    budget = TimeBudget(30.0, progress, tmp_path / "minutes.json")
    progress.plan(stages(1024, ["2x"])[1:])
    before = progress.seconds_left()
    budget.choose("2x", TrainingLength("2x", "recover", 100, 1.0, 77.0, False))
    assert before is not None
    assert progress.seconds_left() == pytest.approx(before + 77)
    assert budget.left() == pytest.approx(LANDING * 1800 - before)


SPENT = Minutes(15.0, 14.0, 1024, 1024, [TrainingLength("2x", "recover", 1200, 0.571, 500.0, False)])


@pytest.mark.parametrize(
    ("spent", "told"),
    [
        (SPENT, "Minutes: 15 were asked for, and the run took 14.0. Chosen: 1024 of 1024 texts to fit; training after "
                "shrinking for 2x: 1200 steps (0.57 epochs)."),
        (replace(SPENT, took=18.5), "more than a fifth too long: its parts took longer than predicted. Chosen"),
        (replace(SPENT, took=9.0), "more than a fifth too short: its parts took less time than predicted. Chosen"),
        (replace(SPENT, took=9.0, trainings=[], trainable=False),
         "It ended early: all 1024 texts were used, the most there is, and there are no rows to train on. Chosen"),
        (replace(SPENT, took=9.0, trainings=[replace(SPENT.trainings[0], epochs=20.0, most=True)]),
         "It ended early: all 1024 texts and 20 epochs were used, the most there is. Chosen"),
        (replace(SPENT, trainings=[replace(SPENT.trainings[0], steps=0)]), "2x: none, for want of time"),
    ],
)  # fmt: skip
def test_the_report_says_what_came(spent: Minutes, told: str) -> None:
    assert told in spent.sentence()
