"""How fast models really are, side by side: paired, interleaved, end to end, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateurs import clock
from secateurs.clock import Samples, Timer, interleave, warn_if_noisy
from secateurs.environment import Environment, machine
from secateurs.errors import RecipeError
from secateurs.runtimes import runtime
from secateurs.workload import check, random_batch

__all__ = ["Measurement", "Speed", "Timing", "compare"]


@dataclass(frozen=True)
class Speed:
    """Baseline ms / model ms: the median of the ratios of all rounds.

    Args:
        median: the speed-up.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
    """

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Timing:
    """One model in one environment.

    Args:
        latency_ms: median time of a forward pass of one batch.
        latency_low: lower quartile, ms.
        latency_high: upper quartile, ms.
        throughput_per_second: sequences a second at the median.
        rounds: forward passes that were timed.
        noise: relative: half the interquartile range, or the share of the core that others took if that is more.
    """

    latency_ms: float
    latency_low: float
    latency_high: float
    throughput_per_second: float
    rounds: int
    noise: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Several models timed together.

    Args:
        environment: where and how they ran.
        baseline: the model that speed-ups refer to.
        timings: model name -> timing.
        speedups: model name -> speed-up over the baseline (the baseline's own is 1).
        machine: processor and versions.
    """

    environment: Environment
    baseline: str
    timings: Mapping[str, Timing]
    speedups: Mapping[str, Speed]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "environment": self.environment.to_dict(),
            "machine": dict(self.machine),
            "baseline": self.baseline,
            "timings": {name: timing.to_dict() for name, timing in self.timings.items()},
            "speedups": {name: speed.to_dict() for name, speed in self.speedups.items()},
        }


def compare(
    models: Mapping[str, Any],
    environment: Environment,
    *,
    baseline: str = "dense",
    seed: int = 0,
    batch: Mapping[str, Any] | None = None,
    seconds: float = 30.0,
    rounds: tuple[int, int] = (8, 200),
    precision: float = 0.01,
    timer: Timer | None = None,
    track: Callable[..., Iterable[Any]] | None = None,
) -> Measurement:
    """Time models against one of them, all of them once a round in random order; none is changed.

    Args:
        models: name -> transformers model.
        environment: where and how they run.
        baseline: the name that speed-ups refer to.
        seed: of the random tokens and the orders.
        batch: inputs to use in place of random tokens, on the environment's device.
        seconds: wall time after which no further round begins.
        rounds: at least and at most so many rounds.
        precision: stop once every speed-up is known to this relative half-width of its 95 % interval.
        timer: reads the clock; by default the environment's own.
        track: shows progress.

    Raises:
        RecipeError: the environment cannot be used here, or there is no model of the baseline's name.
    """
    if baseline not in models:
        raise RecipeError(f"there is no model {baseline!r} to compare with; given: {', '.join(models) or 'none'}")
    for model in models.values():
        check(environment, model)
    read = timer or clock.timer(environment)
    prepare = runtime(environment.runtime)
    fewest = min(models.values(), key=lambda model: model.config.vocab_size)  # tokens that every model knows
    inputs = random_batch(fewest, environment, seed=seed) if batch is None else batch
    prepared = {name: prepare(model, environment) for name, model in models.items()}
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
