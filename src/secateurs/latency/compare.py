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
from secateurs.latency.generation import Generated
from secateurs.latency.interleave import Samples, interleave, warn_if_noisy
from secateurs.latency.key_value_cache import cache_bytes
from secateurs.latency.passes import Pass, whole
from secateurs.latency.runtimes import runtime
from secateurs.latency.timer import Run, Timer, timer_for
from secateurs.latency.workload import check, random_batch
from secateurs.progress import Track, silent

__all__ = ["GenerationTiming", "Measurement", "Speed", "Timing", "compare"]

FIRST_TOKEN = ": first token"
"""Added to the name of a model: the name of its pass over the prompt, which is timed beside the whole generation."""


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
class GenerationTiming:
    """What a generation is made of.

    Args:
        first_token_ms: median time of the pass over the prompt, in ms.
        per_token_ms: median time of a step, in ms: that of a generation without the pass over the prompt, divided by the
            number of steps.
        cache_bytes: bytes of the key-value cache at the end of the generation.
    """

    first_token_ms: float
    per_token_ms: float
    cache_bytes: int


@dataclass(frozen=True)
class Timing:
    """Latency of one model in one environment. Over several processes, times are medians of the processes' figures.

    Args:
        latency_ms: median time of a forward pass of one batch, or of a whole generation, in ms.
        latency_low: lower quartile of that time, in ms.
        latency_high: upper quartile of that time, in ms.
        throughput_per_second: sequences per second at the median time.
        rounds: number of timed forward passes.
        noise: half the interquartile range relative to the median, or the median contention - 1 if that is larger.
        generation: what the generation is made of; ``None`` in the regime ``"throughput"``.
    """

    latency_ms: float
    latency_low: float
    latency_high: float
    throughput_per_second: float
    rounds: int
    noise: float
    generation: GenerationTiming | None = None

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        values = asdict(self)
        return values if self.generation else {name: values[name] for name in values if name != "generation"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        """Inverse of ``to_dict``."""
        generation = values.get("generation")
        return cls(**{**values, "generation": GenerationTiming(**generation) if generation else None})


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
            {name: Timing.from_dict(timing) for name, timing in values["timings"].items()},
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
        batch: inputs on the environment's device, in place of random tokens; for generation the prompt.
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
    workload = whole(environment, inputs)
    runs = {name: workload.of_model(run) for name, run in prepared.items()}
    first = {name + FIRST_TOKEN: Pass(inputs).of_model(run) for name, run in prepared.items() if environment.generates}
    others = [name for name in models if name != baseline]

    def precise(samples: Samples) -> bool:
        return all(
            (high - low) / 2 <= precision * median
            for median, low, high in (samples.ratio(baseline, name) for name in others)
        )

    samples = interleave(
        {**runs, **first},
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
        {name: _timing(samples, name, environment, runs[name]) for name in models},
        {name: Speed(*samples.ratio(baseline, name)) for name in models},
        machine(),
    )
    noise = max(timing.noise for timing in measurement.timings.values())
    warn_if_noisy(noise, environment)
    return measurement


def _timing(samples: Samples, name: str, environment: Environment, run: Run) -> Timing:
    latency = samples.median(name)
    return Timing(
        latency,
        samples.quantile(name, 0.25),
        samples.quantile(name, 0.75),
        1e3 * environment.batch_size / latency if latency > 0 else math.inf,
        len(samples.ms[name]),
        samples.noise(name),
        _generation_timing(samples, name, environment, run) if environment.generates else None,
    )


def _generation_timing(samples: Samples, name: str, environment: Environment, run: Run) -> GenerationTiming:
    """The parts of a generation. One more generation, untimed, gives the cache that it ends with."""
    first = np.asarray(samples.ms[name + FIRST_TOKEN])
    steps = (np.asarray(samples.ms[name]) - first) / environment.new_tokens
    generated = run()
    assert isinstance(generated, Generated)
    return GenerationTiming(float(np.median(first)), float(np.median(steps)), cache_bytes(generated.cache))
