"""Timers: how one run is timed on the CPU or on a GPU, and with how many CPU threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment

__all__ = ["Reading", "Run", "Timer", "threads", "timer_for"]

Run = Callable[[], object]
"""One forward pass of a prepared model, or other work that is timed as a unit."""


class Reading(NamedTuple):
    """The result of one timed run.

    Args:
        ms: milliseconds on the clock of the environment.
        contention: wall time divided by the CPU time of the calling thread. It is 1 on a quiet machine, and 2 if
            another process holds the core half of the time. It does not depend on the number of threads, because the
            calling thread takes part in every parallel region.
    """

    ms: float
    contention: float = 1.0


Timer = Callable[[Run], Reading]
"""Executes a run once and returns its reading."""


def timer_for(environment: Environment) -> Timer:
    """Timer of an environment: CUDA events on a GPU, else the wall clock or the CPU time of the single thread.

    Args:
        environment: device, clock and number of CPU threads.

    Raises:
        RecipeError: the clock is unknown, or the CPU clock was requested where it does not measure latency.
    """
    if environment.clock not in ("wall", "cpu"):
        raise RecipeError(f"clock {environment.clock!r} is unknown; choose wall or cpu")
    if environment.device.startswith("cuda"):
        if environment.clock == "cpu":
            raise RecipeError(f"the cpu clock cannot time work on {environment.device}; use the wall clock")
        return _cuda_timer(environment.device)
    if environment.clock == "cpu":
        if environment.threads != 1:
            raise RecipeError(
                f"the cpu clock times one thread only, and the environment has {environment.threads} threads; "
                "use 1 thread or the wall clock"
            )
        return _cpu_timer
    return _wall_timer


def _wall_timer(run: Run) -> Reading:
    cpu_seconds, start = time.thread_time(), time.perf_counter()
    run()
    wall_seconds = time.perf_counter() - start
    cpu_seconds = time.thread_time() - cpu_seconds
    return Reading(wall_seconds * 1e3, max(1.0, wall_seconds / cpu_seconds) if cpu_seconds > 0 else 1.0)


def _cpu_timer(run: Run) -> Reading:
    # The calling thread does all the work of the run. The clock of that thread excludes other work of the process.
    start = time.thread_time()
    run()
    return Reading((time.thread_time() - start) * 1e3)


def _cuda_timer(device: str) -> Timer:
    def read(run: Run) -> Reading:
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
        return Reading(start.elapsed_time(end))

    return read


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set the number of intra-op CPU threads inside the block, and restore the previous number afterwards.

    Args:
        number: intra-op threads, >= 1.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
