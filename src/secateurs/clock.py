"""How time is read: timers, thread count, shuffled interleaving, and what a set of readings is worth.

A figure measured once says little on a machine that others use too. Candidates are therefore timed in rounds: every
round visits all of them once, in a new random order, so that drift and bursts hit all of them alike. A visit begins
with an untimed run, because the candidate before it left the caches and the heap in another state: without that run
the first pages and lines of a short candidate can cost as much as its work. Long ones do without it. A part of a model
is read *behind* what runs before it there, which leaves caches and heap as that part will really find them.
"""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from secateurs.environment import Environment
from secateurs.errors import RecipeError

__all__ = ["NOISY", "Reading", "Run", "Samples", "Timer", "interleave", "threads", "timer", "warn_if_noisy"]

logger = logging.getLogger(__name__)

MEDIAN_ERROR = 1.86
"""Of normal readings, in half interquartile ranges: sqrt(pi / 2) standard deviations, each of 1 / 0.674 of those."""

NOISY = 0.05
"""Above this relative noise a set of timings is flagged."""

LONG = 0.25
"""Seconds of a run from which on no untimed run comes before it: what it finds in the caches no longer matters."""

Run = Callable[[], object]


class Reading(NamedTuple):
    """One timed run.

    Args:
        ms: milliseconds on the chosen clock.
        contention: wall time / CPU time of the calling thread: 1 on a quiet machine, 2 where someone else has the core
            half of the time. It does not depend on the number of threads, because the caller takes part in every
            parallel region.
    """

    ms: float
    contention: float = 1.0


Timer = Callable[[Run], Reading]


def timer(environment: Environment) -> Timer:
    """The timer of an environment: CUDA events on a GPU, else the wall clock or the CPU time of the one thread.

    Raises:
        RecipeError: the CPU clock was asked for where it does not measure latency.
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
                f"the cpu clock adds up the time of all {environment.threads} threads; use 1 thread or the wall clock"
            )
        return _cpu_timer
    return _wall_timer


def _wall_timer(run: Run) -> Reading:
    own, start = time.thread_time(), time.perf_counter()
    run()
    wall = time.perf_counter() - start
    own = time.thread_time() - own
    return Reading(wall * 1e3, max(1.0, wall / own) if own > 0 else 1.0)


def _cpu_timer(run: Run) -> Reading:
    # One thread does all the work; its own clock leaves out whatever else the process does.
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
    """Run with so many intra-op threads; the former number comes back afterwards."""
    former = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(former)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Samples:
    """Readings of several candidates, in the order of the rounds.

    Args:
        ms: candidate -> milliseconds.
        contention: candidate -> wall time / own CPU time.
    """

    ms: Mapping[str, list[float]]
    contention: Mapping[str, list[float]] = field(default_factory=dict)

    def quantile(self, name: str, q: float) -> float:
        """Milliseconds below which a fraction ``q`` of the readings lies."""
        return float(np.quantile(self.ms[name], q))

    def median(self, name: str) -> float:
        return self.quantile(name, 0.5)

    def spread(self, name: str) -> float:
        """Half the interquartile range, relative to the median."""
        return (self.quantile(name, 0.75) - self.quantile(name, 0.25)) / (2 * max(self.median(name), 1e-9))

    def error(self, name: str, visits: int) -> float:
        """Standard error of the median, relative to it: how well so many visits with such a spread tell it.

        Readings of one visit see the same burst of other work, and count as one.
        """
        return MEDIAN_ERROR * self.spread(name) / visits**0.5

    def noise(self, name: str) -> float:
        """The larger of the spread and of the share of the core that others took."""
        return max(self.spread(name), float(np.median(self.contention.get(name) or [1.0])) - 1)

    def ratio(self, over: str, under: str) -> tuple[float, float, float]:
        """Median of the paired ratios ``over / under`` of every round, with its 95 % bootstrap interval.

        The ratio is taken first: both runs of a round saw the same machine. Both need one reading a round.

        Returns:
            Median, low end, high end.
        """
        ratios = np.asarray(self.ms[over]) / np.asarray(self.ms[under])
        chosen = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
        low, high = np.quantile(np.median(ratios[chosen], axis=1), (0.025, 0.975))
        return float(np.median(ratios)), float(low), float(high)


def interleave(
    runs: Mapping[str, Run],
    environment: Environment,
    *,
    seed: int,
    seconds: float,
    rounds: tuple[int, int] = (5, 200),
    repeats: Mapping[str, int] | None = None,
    behind: Mapping[str, Run] | None = None,
    timer: Timer,
    enough: Callable[[Samples], bool] | None = None,
    track: Callable[..., Iterable[Any]] | None = None,
    label: str = "timing",
) -> Samples:
    """Time all candidates in rounds, each round in a new random order.

    Args:
        runs: candidate -> what to time.
        environment: sets the number of CPU threads.
        seed: of the orders.
        seconds: wall time after which no further round begins.
        rounds: at least and at most so many.
        repeats: readings a visit, 1 where not named.
        behind: candidate -> what runs, untimed, right before each of its readings; it takes the place of the untimed run
            of the candidate itself.
        timer: runs a candidate and reads the clock.
        enough: asked after each round from the minimum on; true ends the timing.
        track: shows progress over the rounds.
        label: what the progress is called.

    Returns:
        The readings of every candidate.
    """
    samples = Samples({name: [] for name in runs}, {name: [] for name in runs})
    shuffle = random.Random(seed)
    start = time.perf_counter()
    with threads(environment.threads) if environment.device == "cpu" else nullcontext(), _no_garbage_collection():
        warm: dict[str, float] = {}
        for name, run in runs.items():
            began = time.perf_counter()
            run()  # kernels are chosen and memory is first touched here, outside all rounds
            warm[name] = time.perf_counter() - began
        progress = track or (lambda items, _title: items)
        for done in progress(range(rounds[1]), label):
            over = time.perf_counter() - start > seconds
            if done >= rounds[0] and (over or (enough is not None and enough(samples))):
                break
            for name in shuffle.sample(list(runs), len(runs)):
                before = (behind or {}).get(name)
                if before is None and warm[name] < LONG:
                    runs[name]()
                for _ in range((repeats or {}).get(name, 1)):
                    if before is not None:
                        before()
                    reading = timer(runs[name])
                    samples.ms[name].append(reading.ms)
                    samples.contention[name].append(reading.contention)
    return samples


def warn_if_noisy(noise: float, environment: Environment) -> None:
    """Say so when timings can hardly be trusted, and what to do about it."""
    if noise > NOISY:
        on_cpu_clock = environment.device != "cpu" or environment.clock == "cpu"
        advice = "" if on_cpu_clock else ", or use the cpu clock with 1 thread (--clock cpu --threads 1)"
        logger.warning(
            "timings on this machine are noisy: %.0f %% on %s; close other programs%s",
            100 * noise,
            environment,
            advice,
        )
