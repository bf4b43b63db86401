"""Timers: what they read, and which environments they refuse."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.timer import Reading, timer_for


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_a_cpu_timer_runs_once_and_reads_a_positive_time(clock: str) -> None:
    ran = []
    reading = timer_for(Environment(clock=clock))(lambda: ran.append(sum(range(1000))))
    assert len(ran) == 1
    assert reading.ms > 0
    assert reading.contention >= 1


def test_gpu_work_is_timed_by_cuda_events(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            steps.append("record")

        def synchronize(self) -> None:
            steps.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            return 12.5 if end is not self else 0.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda name: nullcontext(steps.append(name)))
    reading = timer_for(Environment(device="cuda:1"))(lambda: steps.append("run"))
    assert reading == Reading(12.5, 1.0)
    assert steps == ["cuda:1", "record", "run", "record", "synchronize"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment(device="cuda", clock="cpu"), "cpu clock cannot time work on cuda"),
        (Environment(threads=2, clock="cpu"), "the environment has 2 threads; use 1 thread"),
        (Environment(clock="sun"), "'sun' is unknown; choose wall or cpu"),
    ],
)
def test_unsuitable_clocks_are_refused_in_one_line(environment: Environment, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        timer_for(environment)
    assert "\n" not in str(caught.value)
