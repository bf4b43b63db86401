"""A training that has to end at a time, on a fake clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from secateurs.training.elastic import TOLERANCE, ElasticSteps


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 3.0

    def __call__(self) -> float:
        return self.now


def train(pace: Callable[[int], float], planned: int = 1000, most: int = 4000) -> tuple[ElasticSteps, int, float]:
    """Train for a second per planned step.

    Args:
        pace: seconds of a step.
        planned: planned steps.
        most: largest number of steps.

    Returns:
        The steps, their number, and the seconds that they took.
    """
    clock = Clock()
    elastic = ElasticSteps([(0, planned)], most, float(planned), lambda ends: None, clock)
    began, step = clock.now, 0
    elastic.begin(0)
    ended = False
    while not ended:
        clock.now += pace(step)
        step += 1
        ended = elastic.after_step(step)
    return elastic, step, clock.now - began


def test_a_training_that_goes_as_planned_is_not_changed() -> None:
    elastic, steps, _ = train(lambda step: 1.05)
    assert steps == 1000
    assert elastic.ends == [(0, 1000)]
    assert elastic.virtual(630) == 630


@pytest.mark.parametrize("pace", [0.5, 2.0, 3.0])
def test_wrong_steps_end_in_time(pace: float) -> None:
    elastic, steps, took = train(lambda step: pace)
    assert took == pytest.approx(1000, rel=TOLERANCE)
    assert steps == pytest.approx(1000 / pace, rel=TOLERANCE)
    assert elastic.virtual(steps) == pytest.approx(1000)


def test_a_machine_that_becomes_slow_in_the_middle() -> None:
    elastic, steps, took = train(lambda step: 1.0 if step < 600 else 2.0)
    assert took == pytest.approx(1000, rel=1.5 * TOLERANCE)
    positions = [elastic.virtual(step) for step in range(steps + 1)]
    assert positions == sorted(positions)
    assert positions[600] == 600
    assert positions[-1] == pytest.approx(1000)
    assert max(later - earlier for earlier, later in itertools.pairwise(positions)) < 3


def test_no_more_steps_than_there_are() -> None:
    assert train(lambda step: 0.1, most=1500)[1] == 1500


def test_the_last_steps_of_a_training_that_is_late_are_not_one() -> None:
    _, steps, _ = train(lambda step: 1.0 if step < 949 else 1000.0)
    assert steps >= 950 + 20


def test_a_resumed_training_goes_on_with_its_corrections() -> None:
    elastic, *_ = train(lambda step: 2.0)
    clock = Clock()
    again = ElasticSteps(elastic.ends, 4000, 1000.0, lambda ends: None, clock)
    again.begin(400)
    assert again.end == elastic.end
    assert again.virtual(400) == elastic.virtual(400)
    for step in range(401, again.end + 1):
        clock.now += 2.0
        ended = again.after_step(step)
        assert ended == (step == again.end)
    assert again.ends == elastic.ends


def test_corrections_are_told() -> None:
    told: list[list[tuple[int, int]]] = []
    clock = Clock()
    elastic = ElasticSteps([(0, 1000)], 4000, 1000.0, told.append, clock)
    elastic.begin(0)
    for step in range(1, 60):
        clock.now += 2.0
        elastic.after_step(step)
    assert told == [[(0, 1000), (50, 500)]]
