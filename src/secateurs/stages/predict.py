"""How true a latency table is: its predictions against random pruned models that are really built and timed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from secateurs import clock
from secateurs.clock import Timer, interleave
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.runtimes import runtime
from secateurs.shrink import shrink
from secateurs.structure import Kind, Structure
from secateurs.workload import check, random_batch, twin

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
    track: Callable[..., Iterable[Any]] | None = None,
) -> dict[str, Any]:
    """Relative error of predicted speed-ups on random pruned models, timed interleaved with the dense one.

    Args:
        model: the model of the table; left as it was.
        structure: what can be removed from it.
        table: what is judged, in its own environment.
        configs: random pruned models.
        seed: of the models, the tokens and the order of timing.
        batch: inputs to use in place of random tokens.
        seconds: wall time after which no further round begins.
        rounds: at least and at most so many rounds.
        timer: reads the clock; by default the environment's own.
        track: shows progress.

    Returns:
        ``mean_error`` and ``max_error`` (``|predicted / measured - 1|``), ``rounds``, ``dense_ms``, ``noise``, and
        per pruned model its ``counts``, ``predicted``, ``measured`` with its 95 % interval, and signed ``error``.
    """
    environment = table.environment
    check(environment, model)
    prepare = runtime(environment.runtime)
    inputs = random_batch(model, environment, seed=seed) if batch is None else batch
    generator = random.Random(seed)
    chosen = [random_counts(structure, table, generator) for _ in range(configs)]

    def whole(counts: Mapping[str, int]) -> Callable[[], Any]:
        mask = Mask.from_units(structure, {name: torch.arange(kept) for name, kept in counts.items()})
        run = prepare(shrink(twin(model), structure, mask), environment)
        return lambda: run(inputs)

    runs = {"dense": whole({}), **{str(index): whole(counts) for index, counts in enumerate(chosen)}}
    read = timer or clock.timer(environment)
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
    """Random kept counts: an overall share in [0.1, 0.9], each group up to 0.4 off it, widths snapped unless whole."""
    share = generator.uniform(0.1, 0.9)
    counts = {}
    for group in structure:
        part = min(1.0, max(0.0, share + generator.uniform(-0.4, 0.4)))
        step = 1 if group.kind is Kind.HEAD else table.curve(group.name).multiple
        snapped = round(group.size * part / step) * step
        counts[group.name] = group.size if part == 1 else min(group.size, snapped)
    return counts
