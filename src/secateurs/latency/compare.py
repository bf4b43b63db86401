"""``compare``: time several models against each other in this process, end to end and interleaved.

Two processes differ by several per cent in the speed-up that they measure, because memory lies at other places in each. An
interval from one process cannot show that. ``secateurs.latency.fresh_processes`` repeats ``compare`` in several processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment, machine
from secateurs.latency.interleave import Samples, interleave, warn_if_noisy
from secateurs.latency.runtimes import runtime
from secateurs.latency.timer import Timer, timer_for
from secateurs.latency.workload import check, random_batch
from secateurs.progress import Track, silent

__all__ = ["Measurement", "Speed", "Timing", "compare"]


@dataclass(frozen=True)
class Speed:
    """Speed-up of a model, baseline ms / model ms, with its 95 % interval.

    Args:
        median: speed-up: the median over the rounds of one process, or over processes, of which the geometric mean is the
            estimate.
        low: lower end of the interval: bootstrap over the rounds of one process, or Student's t over the processes.
        high: upper end of the interval.
        processes: speed-up in each of several processes; empty if it was timed in one.
    """

    median: float
    low: float
    high: float
    processes: tuple[float, ...] = ()

    @classmethod
    def of_processes(cls, speedups: Sequence[float]) -> Speed:
        """Median over processes with its 95 % interval, for logarithms that are normal: the geometric mean estimates it.

        The interval is ``mean +- t(n - 1, 0.975) * s / sqrt(n)`` of the logarithms, ``s`` being their standard deviation.

        Args:
            speedups: speed-up in each process, at least two.

        >>> speed = Speed.of_processes([1.9, 2.0, 2.1])
        >>> f"{speed.median:.2f} {speed.low:.2f} {speed.high:.2f}"
        '2.00 1.76 2.26'
        """
        from scipy.stats import t

        logs = np.log(speedups)
        half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
        median, low, high = (math.exp(logs.mean() + step) for step in (0.0, -half, half))
        return cls(median, low, high, tuple(map(float, speedups)))

    def over(self, other: Speed) -> float:
        """Speed-up over another model, of which the speed-up over the same baseline is known.

        Args:
            other: speed-up of that model, in the same processes or rounds.

        >>> Speed(4.0, 3.9, 4.1).over(Speed(2.0, 1.9, 2.1))
        2.0
        """
        return self.median / other.median

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Speed:
        """Inverse of ``to_dict``."""
        return cls(values["median"], values["low"], values["high"], tuple(values["processes"]))


@dataclass(frozen=True)
class Timing:
    """Latency of one model in one environment. Over several processes, times are medians of the processes' figures.

    Args:
        latency_ms: median time of a forward pass of one batch, in ms.
        latency_low: lower quartile of that time, in ms.
        latency_high: upper quartile of that time, in ms.
        throughput_per_second: sequences per second at the median time.
        rounds: number of timed forward passes.
        noise: half the interquartile range relative to the median, or the median contention - 1 if that is larger.
    """

    latency_ms: float
    latency_low: float
    latency_high: float
    throughput_per_second: float
    rounds: int
    noise: float

    def to_dict(self) -> dict[str, float]:
        """Fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Timings of several models that were compared in one session.

    Args:
        environment: environment of the timings.
        baseline: name of the model that speed-ups refer to.
        timings: model name -> timing.
        speedups: model name -> speed-up over the baseline (1 for the baseline).
        machine: processor, system and versions of the machine.
    """

    environment: Environment
    baseline: str
    timings: Mapping[str, Timing]
    speedups: Mapping[str, Speed]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "environment": self.environment.to_dict(),
            "machine": dict(self.machine),
            "baseline": self.baseline,
            "timings": {name: timing.to_dict() for name, timing in self.timings.items()},
            "speedups": {name: speed.to_dict() for name, speed in self.speedups.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Inverse of ``to_dict``."""
        return cls(
            Environment.from_dict(values["environment"]),
            values["baseline"],
            {name: Timing(**timing) for name, timing in values["timings"].items()},
            {name: Speed.from_dict(speed) for name, speed in values["speedups"].items()},
            values["machine"],
        )


def compare(
    models: Mapping[str, Any],
    environment: Environment,
    *,
    baseline: str = "dense",
    runtimes: Mapping[str, str] | None = None,
    seed: int = 0,
    batch: Mapping[str, Any] | None = None,
    seconds: float = 30.0,
    rounds: tuple[int, int] = (8, 200),
    precision: float = 0.01,
    timer: Timer | None = None,
    track: Track = silent,
) -> Measurement:
    """Time models against a baseline. Every round times each model once, in random order; the models stay unchanged.

    Args:
        models: model name -> transformers model.
        environment: environment of the timings.
        baseline: name of the model that speed-ups refer to.
        runtimes: model name -> runtime, for models that run in another one than that of the environment.
        seed: seed of the random tokens and of the random orders.
        batch: inputs on the environment's device, in place of random tokens.
        seconds: wall time in seconds after which no further round starts.
        rounds: minimum and maximum number of rounds.
        precision: half-width of the 95 % interval, relative to the speed-up, at which the timing stops if every speed-up
            has reached it.
        timer: function that times one run; by default the timer of the environment.
        track: progress over the rounds.

    Raises:
        RecipeError: the environment cannot be used here, or no model has the baseline's name.
    """
    if baseline not in models:
        raise RecipeError(f"there is no model {baseline!r} to compare with; given: {', '.join(models) or 'none'}")
    places = {name: replace(environment, runtime=(runtimes or {}).get(name, environment.runtime)) for name in models}
    for name, model in models.items():
        check(places[name], model)
    read = timer or timer_for(environment)
    # The tokens of the smallest vocabulary are valid for every model.
    smallest_vocabulary = min(models.values(), key=lambda model: getattr(model.config, "vocab_size", 0))
    inputs = random_batch(smallest_vocabulary, environment, seed=seed) if batch is None else batch
    prepared = {
        name: runtime(places[name].runtime).prepare(model, places[name], inputs) for name, model in models.items()
    }
    others = [name for name in models if name != baseline]

    def precise(samples: Samples) -> bool:
        return all(
            (high - low) / 2 <= precision * median
            for median, low, high in (samples.ratio(baseline, name) for name in others)
        )

    samples = interleave(
        {name: (lambda run=run: run(inputs)) for name, run in prepared.items()},
        environment,
        seed=seed,
        seconds=seconds,
        rounds=rounds,
        timer=read,
        enough=precise,
        track=track,
        label="measure",
    )
    measurement = Measurement(
        environment,
        baseline,
        {name: _timing(samples, name, environment.batch_size) for name in models},
        {name: Speed(*samples.ratio(baseline, name)) for name in models},
        machine(),
    )
    noise = max(timing.noise for timing in measurement.timings.values())
    warn_if_noisy(noise, environment)
    return measurement


def _timing(samples: Samples, name: str, batch_size: int) -> Timing:
    latency = samples.median(name)
    return Timing(
        latency,
        samples.quantile(name, 0.25),
        samples.quantile(name, 0.75),
        1e3 * batch_size / latency if latency > 0 else math.inf,
        len(samples.ms[name]),
        samples.noise(name),
    )
