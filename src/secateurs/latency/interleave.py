"""Interleaved timing: candidates are timed in shuffled rounds, and ``Samples`` holds the statistics of the readings.

A single timing says little on a machine that is shared with other work. Candidates are therefore timed in rounds: every
round visits every candidate once, in a new random order, so that drift and bursts of other work affect all candidates
alike. A visit starts with an untimed run of the candidate, because the previous candidate left the caches and the heap
in another state: without the untimed run, the first pages and cache lines of a short candidate can cost as much as its
work. Long candidates need no untimed run. A part of a model can be timed right after the part that precedes it in the
model, so that the caches and the heap are in the state that they have inside the model.
"""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from secateurs.latency.environment import Environment
from secateurs.latency.settle_heap import settle_heap
from secateurs.latency.timer import Run, Timer, threads
from secateurs.progress import Track, silent

__all__ = ["NOISE_LIMIT", "Samples", "interleave", "warn_if_noisy"]

logger = logging.getLogger(__name__)

NOISE_LIMIT = 0.05
"""Relative noise above which a set of timings is flagged as noisy."""

MEDIAN_ERROR = 1.86
"""Standard error of the median of ``n`` normal readings, times ``sqrt(n)``, in half interquartile ranges.

The standard error of the median is ``sqrt(pi / 2) / sqrt(n)`` standard deviations, and one standard deviation is
``1 / 0.674`` half interquartile ranges.
"""

LONG_RUN = 0.25
"""Seconds from which a run counts as long: the initial state of the caches does not matter, so no untimed run is needed."""


@dataclass(frozen=True)
class Samples:
    """Readings of several candidates, in the order of the rounds.

    Args:
        ms: candidate name -> milliseconds of every reading.
        contention: candidate name -> contention of every reading (see ``Reading``).
    """

    ms: Mapping[str, list[float]]
    contention: Mapping[str, list[float]] = field(default_factory=dict)

    def quantile(self, name: str, q: float) -> float:
        """Quantile ``q`` of a candidate's readings, in milliseconds."""
        return float(np.quantile(self.ms[name], q))

    def median(self, name: str) -> float:
        """Median of a candidate's readings, in milliseconds."""
        return self.quantile(name, 0.5)

    def spread(self, name: str) -> float:
        """Half the interquartile range of a candidate's readings, relative to their median."""
        return (self.quantile(name, 0.75) - self.quantile(name, 0.25)) / (2 * max(self.median(name), 1e-9))

    def error(self, name: str, visits: int) -> float:
        """Standard error of a candidate's median, relative to the median.

        All readings of one visit are affected by the same burst of other work, so they count as one reading.

        Args:
            name: candidate name.
            visits: number of visits of the candidate, >= 1.
        """
        return MEDIAN_ERROR * self.spread(name) / visits**0.5

    def noise(self, name: str) -> float:
        """Relative noise of a candidate: its spread, or its median contention - 1 if that is larger."""
        return max(self.spread(name), float(np.median(self.contention.get(name) or [1.0])) - 1)

    def ratio(self, over: str, under: str) -> tuple[float, float, float]:
        """Median of the paired ratios ``over / under`` of all rounds, with its 95 % bootstrap interval.

        The ratio is taken in each round before the median, because both runs of a round saw the same machine.

        Args:
            over: candidate in the numerator, with one reading per round.
            under: candidate in the denominator, with one reading per round.

        Returns:
            Median, lower end and upper end of the interval.
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
    preceded_by: Mapping[str, Run] | None = None,
    timer: Timer,
    enough: Callable[[Samples], bool] | None = None,
    track: Track = silent,
    label: str = "timing",
) -> Samples:
    """Time all candidates in rounds, each round in a new random order.

    Args:
        runs: candidate name -> run to time.
        environment: environment of the runs; it sets the number of CPU threads.
        seed: seed of the random orders.
        seconds: wall time in seconds after which no further round starts.
        rounds: minimum and maximum number of rounds.
        repeats: candidate name -> readings per visit; 1 for candidates that are not named.
        preceded_by: candidate name -> run that is executed, untimed, before each reading of that candidate. It replaces
            the untimed run of the candidate.
        timer: function that times one run.
        enough: condition that ends the timing, evaluated after every round from the minimum number of rounds on.
        track: progress over the rounds.
        label: title of the progress display.

    Returns:
        The readings of every candidate.
    """
    samples = Samples({name: [] for name in runs}, {name: [] for name in runs})
    shuffle = random.Random(seed)
    settle_heap()
    start = time.perf_counter()
    with threads(environment.threads) if environment.device == "cpu" else nullcontext(), _no_garbage_collection():
        warm_up: dict[str, float] = {}
        for name, run in runs.items():
            began = time.perf_counter()
            run()  # the first run selects kernels and touches memory, so it happens before the rounds
            warm_up[name] = time.perf_counter() - began
        for done in track(range(rounds[1]), label):
            over = time.perf_counter() - start > seconds
            if done >= rounds[0] and (over or (enough is not None and enough(samples))):
                break
            for name in shuffle.sample(list(runs), len(runs)):
                predecessor = (preceded_by or {}).get(name)
                if predecessor is None and warm_up[name] < LONG_RUN:
                    runs[name]()
                for _ in range((repeats or {}).get(name, 1)):
                    if predecessor is not None:
                        predecessor()
                    reading = timer(runs[name])
                    samples.ms[name].append(reading.ms)
                    samples.contention[name].append(reading.contention)
    return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def warn_if_noisy(noise: float, environment: Environment) -> None:
    """Log a warning if timings are too noisy to be trusted, with advice on how to reduce the noise.

    Args:
        noise: relative noise of the timings.
        environment: environment of the timings; the advice depends on its device and clock.
    """
    if noise > NOISE_LIMIT:
        on_cpu_clock = environment.device != "cpu" or environment.clock == "cpu"
        advice = "" if on_cpu_clock else ", or use the cpu clock with 1 thread (--clock cpu --threads 1)"
        logger.warning(
            "timings on this machine are noisy: %.0f %% on %s; close other programs%s",
            100 * noise,
            environment,
            advice,
        )
