"""Prediction error of a latency table, on random pruned models that are built and timed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from secateurs.latency.interleave import interleave
from secateurs.latency.passes import whole
from secateurs.latency.random_models import model_run, random_counts
from secateurs.latency.table import LatencyTable
from secateurs.latency.timer import Timer, timer_for
from secateurs.latency.workload import check, random_batch
from secateurs.progress import Track, silent
from secateurs.structure.structure import Structure

__all__ = ["prediction_error"]


def prediction_error(
    model: Any,
    structure: Structure,
    table: LatencyTable,
    *,
    configs: int = 10,
    seed: int = 0,
    batch: Mapping[str, Any] | None = None,
    seconds: float = 60.0,
    rounds: tuple[int, int] = (5, 60),
    timer: Timer | None = None,
    track: Track = silent,
) -> dict[str, Any]:
    """Relative error of predicted speed-ups on random pruned models, timed interleaved with the dense model.

    Args:
        model: model that the table was measured on; it stays unchanged.
        structure: structure of the model.
        table: table to test, in the environment that it was measured in.
        configs: number of random pruned models.
        seed: seed of the kept counts, of the random tokens and of the timing order.
        batch: inputs on the environment's device, in place of random tokens.
        seconds: wall time in seconds after which no further round starts.
        rounds: minimum and maximum number of rounds.
        timer: function that times one run; by default the timer of the environment.
        track: progress over the rounds.

    Returns:
        ``mean_error`` and ``max_error`` of ``|predicted / measured - 1|``, ``rounds``, ``dense_ms``, ``noise``, and in
        ``configs`` for each pruned model its ``counts``, ``predicted`` speed-up, ``measured`` speed-up with the 95 %
        ``interval``, and signed ``error``.

    Raises:
        RecipeError: the environment of the table cannot be used here.
    """
    environment = table.environment
    check(environment, model)
    inputs = random_batch(model, environment, seed=seed) if batch is None else batch
    generator = random.Random(seed)
    chosen = [random_counts(structure, table, generator) for _ in range(configs)]

    models = {"dense": {}, **{str(index): counts for index, counts in enumerate(chosen)}}
    workload = whole(environment, inputs)
    runs = {name: model_run(model, structure, environment, workload, counts) for name, counts in models.items()}
    read = timer or timer_for(environment)
    samples = interleave(
        runs, environment, seed=seed, seconds=seconds, rounds=rounds, timer=read, track=track, label="prediction"
    )
    rows = []
    for index, counts in enumerate(chosen):
        measured, low, high = samples.ratio("dense", str(index))
        predicted = table.speedup(counts)
        rows.append(
            {
                "counts": counts,
                "predicted": predicted,
                "measured": measured,
                "interval": [low, high],
                "error": predicted / measured - 1,
            }
        )
    errors = [abs(row["error"]) for row in rows]
    return {
        "mean_error": sum(errors) / len(errors),
        "max_error": max(errors),
        "rounds": len(samples.ms["dense"]),
        "dense_ms": samples.median("dense"),
        "noise": samples.noise("dense"),
        "configs": rows,
    }
