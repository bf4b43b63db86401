"""``time_saved``: time saved models in several fresh processes, one after the other, with an interval over the processes.

The speed-up of two models differs from process to process, because their memory lies at other places each time. No number
of rounds within one process shows that difference. As in pyperf, processes are the unit: each loads the models again and
gives one speed-up, and their number is fixed beforehand.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

from secateurs.errors import TimingError
from secateurs.latency.compare import GenerationTiming, Measurement, Speed, Timing
from secateurs.latency.environment import Environment
from secateurs.latency.timing_process import Request, SavedModel
from secateurs.progress import Track, silent

__all__ = ["run_process", "time_saved"]

SECONDS = 4.0
"""Wall time of the rounds of one process."""

ROUNDS = (5, 200)
"""Minimum and maximum number of rounds of one process."""

LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "GROUP_RANK",
)
"""Variables by which torchrun tells a process that it belongs to a group; a timing process belongs to none."""


def time_saved(
    models: Mapping[str, SavedModel],
    environment: Environment,
    *,
    processes: int,
    baseline: str = "dense",
    seed: int = 0,
    seconds: float | None = None,
    track: Track = silent,
    label: str = "time",
) -> Measurement:
    """Time saved models against a baseline, in fresh processes.

    Args:
        models: model name -> where the model is.
        environment: environment of the timings.
        processes: number of processes, at least 2; they run one after the other.
        baseline: name of the model that speed-ups refer to.
        seed: seed of the first process; the others count on from it.
        seconds: wall time in seconds of the rounds of one process; ``None`` = ``SECONDS``.
        track: progress over the processes.
        label: title of the progress display.

    Returns:
        Speed-ups with intervals over the processes, and medians of the processes' timings.

    Raises:
        TimingError: a process cannot load or run the models.
    """
    each = SECONDS if seconds is None else seconds
    measured = [
        run_process(Request(models, baseline, environment, seed + number, each, ROUNDS))
        for number in track(range(processes), label)
    ]
    return Measurement(
        environment,
        baseline,
        {name: _median_timing([one.timings[name] for one in measured]) for name in models},
        {name: Speed.of_processes([one.speedups[name].median for one in measured]) for name in models},
        measured[0].machine,
    )


def run_process(request: Request) -> Measurement:
    """Answer a request in a new process.

    Raises:
        TimingError: the process cannot load or run the models.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith("TORCHELASTIC")
    }
    variables["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "secateurs.latency.timing_process"],
        input=request.to_json(),
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise TimingError(f"a process that times {', '.join(request.models)} failed: {reason}")
    values = json.loads(lines[-1])
    if "error" in values:
        raise TimingError(values["error"])
    return Measurement.from_dict(values)


def _median_timing(timings: Sequence[Timing]) -> Timing:
    """Medians of the figures of several processes; rounds are added up, and noise is the largest."""

    def median(name: str) -> float:
        return statistics.median(getattr(timing, name) for timing in timings)

    return Timing(
        median("latency_ms"),
        median("latency_low"),
        median("latency_high"),
        median("throughput_per_second"),
        sum(timing.rounds for timing in timings),
        max(timing.noise for timing in timings),
        _median_generation([timing.generation for timing in timings if timing.generation is not None]),
    )


def _median_generation(timings: Sequence[GenerationTiming]) -> GenerationTiming | None:
    """Medians of the times of several processes; their caches have one size. ``None`` without timings."""
    if not timings:
        return None
    return GenerationTiming(
        statistics.median(timing.first_token_ms for timing in timings),
        statistics.median(timing.per_token_ms for timing in timings),
        timings[0].cache_bytes,
    )
