"""The time left for a run on a fake clock, and the best figures of every target."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from secateurs.cli import console as terminal
from secateurs.pipeline.run_progress import PlannedStage, RunProgress, duration
from secateurs.pipeline.stage_timer import StageTimer


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stage(name: str, seconds: float, *, target: str = "", unit: str = "passes", tells: bool = True) -> PlannedStage:
    parts = ("search", "fit") if name == "prune" else (name,)
    return PlannedStage(name, parts, seconds, unit, target, tells)


def targets(*names: str) -> list[PlannedStage]:
    seconds = {"prune": 100.0, "evaluate": 20.0}
    times = [("prune", "passes"), ("evaluate", "passes"), ("time", "processes")]
    return [stage(name, seconds.get(name, 50.0), target=target, unit=unit) for target in names for name, unit in times]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(clock: Clock) -> RunProgress:
    """A run of two targets that is predicted to take 400 seconds, and has loaded."""
    progress = RunProgress(clock)
    clock.now += 7
    progress.plan([stage("prepare", 60.0), *targets("2x", "3x")])
    progress.end("load")
    return progress


def after(run: RunProgress, clock: Clock, part: str, seconds: float) -> float | None:
    """The time left when a part has taken some seconds."""
    clock.now += seconds
    run.end(part)
    return run.seconds_left()


def test_nothing_is_known_before_there_is_a_plan(clock: Clock) -> None:
    run = RunProgress(clock)
    clock.now += 7
    run.end("load")
    assert run.seconds_left() is None
    assert run.elapsed == 7
    run.plan([stage("prepare", 60.0)])
    assert run.seconds_left() == 60


def test_the_predictions_add_up(run: RunProgress) -> None:
    assert run.seconds_left() == 400


def test_the_running_stage_counts_down(run: RunProgress, clock: Clock) -> None:
    clock.now += 45
    assert run.seconds_left() == 355


def test_a_stage_that_takes_twice_as_long_doubles_those_of_its_unit(run: RunProgress, clock: Clock) -> None:
    # 240 predicted seconds of passes come, and 100 of processes, of which nothing is known yet.
    assert after(run, clock, "prepare", 120) == pytest.approx(100 + 240 * (3 + 120) / (3 + 60))


def test_a_running_stage_beyond_its_prediction_raises_the_others(run: RunProgress, clock: Clock) -> None:
    clock.now += 60
    assert run.seconds_left() == 340
    clock.now += 60
    assert run.seconds_left() == pytest.approx(100 + 240 * (3 + 120) / (3 + 60))


def test_a_stage_is_expected_to_take_what_the_one_of_the_target_before_took(run: RunProgress, clock: Clock) -> None:
    after(run, clock, "prepare", 60)
    assert after(run, clock, "search", 10) == 330  # a part of the stage: it counts down
    after(run, clock, "fit", 5)
    after(run, clock, "evaluate", 20)
    assert after(run, clock, "time", 30) == 15 + 20 + 30
    assert [after(run, clock, part, 5) for part in ("search", "fit", "evaluate", "time")] == [60, 50, 30, 0]


def test_a_short_stage_says_little(run: RunProgress, clock: Clock) -> None:
    """A stage that was predicted to take no time, and took a second, changes nothing else by more than a third."""
    run.plan([stage("evaluate dense", 0.0), *targets("2x")])
    left = after(run, clock, "evaluate dense", 1)
    assert left == pytest.approx(50 + 120 * 4 / 3)


def test_a_stage_that_an_earlier_run_may_have_done_says_nothing(run: RunProgress, clock: Clock) -> None:
    run.plan([stage("prepare", 60.0, tells=False), *targets("2x")])
    assert after(run, clock, "prepare", 0.1) == 170


def test_a_missed_target_comes_again(run: RunProgress, clock: Clock) -> None:
    for part, seconds in (("prepare", 60), ("search", 50), ("fit", 50), ("evaluate", 20)):
        after(run, clock, part, seconds)
    assert after(run, clock, "time", 50) == 170
    run.again("2x")
    assert run.seconds_left() == 340
    for part, seconds in (("search", 50), ("fit", 50), ("evaluate", 20), ("time", 50)):
        left = after(run, clock, part, seconds)
    assert left == 170
    run.again("2x")
    assert after(run, clock, "search", 10) == 330
    run.finish("2x")  # no other allocation was left to try
    assert run.seconds_left() == 160
    assert after(run, clock, "search", 10) == 150


def test_the_best_shapes_are_the_slowest_that_reach_the_target(run: RunProgress) -> None:
    seen = []
    for speedup in (1.8, 1.9, 2.4, 2.1, 1.95, 2.2):
        run.tell_steering("2x", speedup, 2.0)
        seen.append(run.best["2x"].speedup)
    assert seen == [1.8, 1.9, 2.4, 2.1, 2.1, 2.1]


def test_what_is_known_of_a_target(run: RunProgress) -> None:
    assert run.best == {}
    run.tell_steering("2x", 2.1, 2.0)
    assert str(run.best["2x"]) == "2.10x by its shapes"
    run.tell_quality("2x", "accuracy 0.9")
    assert str(run.best["2x"]) == "2.10x by its shapes, accuracy 0.9"
    run.tell_measured("2x", 1.9)
    assert str(run.best["2x"]) == "1.90x measured, accuracy 0.9"
    run.tell_steering("2x", 2.3, 2.0)  # it missed: another model is built
    assert str(run.best["2x"]) == "2.30x by its shapes"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_log_line_tells_the_time_left(run: RunProgress, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="secateurs")
    timer = StageTimer(run)
    clock.now += 60
    timer.end("prepare")
    StageTimer().end("prepare")
    told = [record.getMessage().partition("; peak")[0].partition(" s")[2] for record in caplog.records]
    assert told == ["; about 6 min left for the run", ""]


def test_the_terminal_shows_the_run_below_the_bars(
    run: RunProgress, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(terminal, "error_console", Console(file=written, force_terminal=True, width=100))
    monkeypatch.setattr(terminal.console, "quiet", False)
    with terminal.progress_bars(run) as track:
        for _ in track(range(2), "calibrate"):
            clock.now += 30
        run.end("prepare")
        run.tell_measured("2x", 2.05)
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in written.getvalue().splitlines()]
    bar, *told = [line for line in lines if line][-3:]
    assert "calibrate" in bar
    assert told == ["the run: 67 s, about 6 min left (16% done)", "2x: 2.05x measured"]


def test_a_part_of_a_stage_corrects_its_unit(run: RunProgress, clock: Clock) -> None:
    run.tell("processes", 20.0, 60.0)
    corrected = 100 * (3 + 60) / (3 + 20)  # 100 predicted seconds of processes
    assert run.seconds_left() == pytest.approx(300 + corrected)
    assert run.ratio("processes") == pytest.approx(63 / 23)
    assert run.ratio("passes") == 1
    run.forget()
    assert run.seconds_left() == 400


def test_a_stage_whose_time_becomes_known(run: RunProgress, clock: Clock) -> None:
    run.expect("prune", "3x", 500.0)
    assert run.seconds_left() == 800
    run.again("3x")
    assert run.seconds_left() == 800  # its place has changed


def test_stages_can_be_left_out(run: RunProgress, clock: Clock) -> None:
    assert run.seconds_left(without=("prune",)) == 200
    assert run.seconds_left(without=("prepare", "prune")) == 140
    clock.now += 90  # the running stage takes longer than its 60 seconds, and so will those of its unit
    left = run.seconds_left(without=("prune",))
    assert left == pytest.approx(100 + 40 * (3 + 90) / (3 + 60))
