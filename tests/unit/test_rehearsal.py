"""A rehearsal of a training on a fake clock."""

from __future__ import annotations

import math
from typing import Any

import pytest

from secateurs.pipeline import rehearsal
from secateurs.pipeline.rehearsal import BATCHES, FEWEST_BATCHES, Pace, rehearse


class Clock:
    """Seconds that pass when a test says so, in the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 5.0

    def perf_counter(self) -> float:
        return self.now


class Rows:
    """Rows that take a hundredth of a second each to read."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock, self.count = clock, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.clock.now += 0.01
        return index


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rehearsal, "time", clock)
    return clock


def pace(clock: Clock, *, seconds: float = math.inf, accumulate: int = 1, sorts: bool = True) -> tuple[Pace, list[int]]:
    """Rehearse a training of 2 s per batch that starts in 3 s and whose first batch takes 10 s more; and its batches."""
    seen: list[int] = []

    def train(data: Any, collate: Any) -> None:
        clock.now += 3
        for number in range(1000):
            collate([number] * 4)
            seen.append(len(data))
            clock.now += 2 + 10 * (number == 0)

    found = rehearse(
        train,
        Rows(clock, 1000),
        list,
        batch_size=4,
        accumulate=accumulate,
        sorts=sorts,
        seed=0,
        seconds=seconds,
    )
    return found, seen


def test_the_first_batch_does_not_count(clock: Clock) -> None:
    found, seen = pace(clock, sorts=False)
    assert found == Pace(3.0, pytest.approx(2.0))
    assert len(seen) == BATCHES + 2
    assert set(seen) == {4 * (BATCHES + 3)}  # rows


def test_a_training_that_sorts_reads_all_rows_first(clock: Clock) -> None:
    assert pace(clock)[0].start == pytest.approx(3 + 0.01 * (1000 - 4 * (BATCHES + 3)))


def test_steps_of_several_batches(clock: Clock) -> None:
    assert pace(clock, accumulate=3)[0].step == pytest.approx(6.0)


def test_slow_steps_are_few(clock: Clock) -> None:
    found, seen = pace(clock, seconds=1.0)
    assert found.step == pytest.approx(2.0)
    assert len(seen) == FEWEST_BATCHES + 2
