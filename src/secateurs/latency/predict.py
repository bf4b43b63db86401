"""Prediction error of a latency table, on random pruned models that are built and timed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from secateurs.latency.interleave import interleave
from secateurs.latency.runtimes import runtime
from secateurs.latency.table import LatencyTable
from secateurs.latency.timer import Run, Timer, timer_for
from secateurs.latency.workload import check, random_batch
from secateurs.progress import Track, silent
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Kind, Structure
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink

__all__ = ["prediction_error", "random_counts"]


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
    prepare = runtime(environment.runtime)
    inputs = random_batch(model, environment, seed=seed) if batch is None else batch
    generator = random.Random(seed)
    chosen = [random_counts(structure, table, generator) for _ in range(configs)]

    def pruned_run(counts: Mapping[str, int]) -> Run:
        mask = Mask.from_units(structure, {name: torch.arange(kept) for name, kept in counts.items()})
        run = prepare(shrink(shared_copy(model), structure, mask), environment)
        return lambda: run(inputs)

    runs = {"dense": pruned_run({}), **{str(index): pruned_run(counts) for index, counts in enumerate(chosen)}}
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


def random_counts(structure: Structure, table: LatencyTable, generator: random.Random) -> dict[str, int]:
    """Random kept counts of a pruned model.

    A common share is drawn from [0.1, 0.9], and each group keeps a share that differs from it by up to 0.4. Widths are
    snapped to the multiple of their curve, except at full size.

    Args:
        structure: structure of the model.
        table: table with the multiple of each group.
        generator: source of the random shares.

    Returns:
        Group name -> kept units.
    """
    share = generator.uniform(0.1, 0.9)
    counts = {}
    for group in structure:
        part = min(1.0, max(0.0, share + generator.uniform(-0.4, 0.4)))
        step = 1 if group.kind is Kind.HEAD else table.curve(group.name).multiple
        snapped = round(group.size * part / step) * step
        counts[group.name] = group.size if part == 1 else min(group.size, snapped)
    return counts
