"""The work of a run, counted before it starts: forward passes, and processes that time models."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path

from secateurs.latency.environment import Environment
from secateurs.pipeline.estimates import rows_of
from secateurs.pipeline.load import Loaded

__all__ = [
    "ATTEMPTS",
    "BUILDS",
    "MARGIN",
    "PASSES_OF_TRAINING",
    "PROCESS_SECONDS",
    "SEARCHES",
    "TABLE_SECONDS",
    "CountedWork",
    "count_work",
    "table_seconds",
]

TABLE_SECONDS = (30.0, 80.0)
"""Seconds of a latency table of one pass: where timings are steady, and where they scatter."""

ATTEMPTS = (1, 4)
"""Allocations that the contract of one target times while it steers, usually."""

BUILDS = (1, 2)
"""Models that are built, fine-tuned, evaluated and confirmed for one target, usually."""

SEARCHES = (1, 3)
"""How often a method without training searches and refits for one target: once more after each measurement that misses."""

PROCESS_SECONDS = (8.0, 25.0)
"""Seconds of one process that times saved models: it starts, loads both, and times them."""

PASSES_OF_TRAINING = 4
"""Forward passes of a training per row: forward and backward of the student (3), forward of the teacher (1)."""

MARGIN = (0.6, 2.0)
"""Real seconds of a stage, as a multiple of its counted forward passes times a measured pass: widths differ in how fast they
run, and so does the machine from minute to minute."""


@dataclass(frozen=True)
class CountedWork:
    """Forward passes of one sequence through the dense model.

    Args:
        prepare: work that all targets share.
        per_target: search and refit, or training of the masks, of one target.
        per_build: training while one model is pruned.
        recover: fine-tuning of one model.
        evaluate_dense: evaluation of the dense model.
        evaluate: evaluation of one pruned model, and its divergence.
        samples: texts that the method works on.
        evaluated: sequences of the evaluation.
        reported: texts of the divergence.
    """

    prepare: float
    per_target: float
    per_build: float
    recover: float
    evaluate_dense: float
    evaluate: float
    samples: int
    evaluated: int
    reported: int


def table_seconds(environment: Environment) -> tuple[float, float]:
    """Seconds of the latency table of an environment; that of generation is measured in two parts."""
    parts = 2 if environment.generates else 1
    return parts * TABLE_SECONDS[0], parts * TABLE_SECONDS[1]


def count_work(loaded: Loaded, samples: int | None = None) -> CountedWork:
    """Count the work of everything that a recipe names.

    Args:
        loaded: everything that the recipe names.
        samples: number of texts to fit; ``None`` = all that were read.
    """
    roles = loaded.data.roles
    samples = samples or roles.fit.rows or roles.accept.rows
    rows_of_training = len(loaded.data.train) if isinstance(loaded.data.train, Sized) else 0
    batch = loaded.context(Path()).rows_a_step
    work = loaded.method.forward_passes(loaded.structure, samples, rows_of_training, batch)
    how = loaded.finetuning
    read = how.steps * batch or how.epochs * rows_of_training
    evaluated, reported = rows_of(loaded.data.evaluation), roles.report.rows
    return CountedWork(
        work.fit,
        work.per_target,
        work.per_build,
        read * PASSES_OF_TRAINING,
        evaluated,
        evaluated + 2 * reported,
        samples,
        evaluated,
        reported,
    )
