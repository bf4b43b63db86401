"""Estimates of ``--dry-run``: seconds of a forward pass, rows of an evaluation, and the largest speed-up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from secateurs.latency.compare import Speed, compare
from secateurs.oneshot.backward import parts_of
from secateurs.pipeline.load import Loaded
from secateurs.structure.mask import Mask
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink
from secateurs.tasks.base import main_input, model_inputs

__all__ = ["Pass", "largest_speedup", "rows_of", "timed_pass"]

TIMED_BATCHES = 4
"""Batches that are timed, from the shortest to the longest texts; each twice."""

TIMED_TOKENS = 1024
"""Tokens of a timed batch, at most; one sequence at least. A model of a billion parameters takes seconds for them."""

SPEEDUP_SECONDS = 5.0
"""Seconds of the timing that tells the largest speed-up."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of the dense model, measured, per sequence.

    Args:
        fastest: seconds, by the faster reading of every timed batch.
        slowest: seconds, by the slower reading.
        output_bytes: bytes of the outputs that models are compared by.
    """

    fastest: float
    slowest: float
    output_bytes: float


def timed_pass(loaded: Loaded, number: int = TIMED_BATCHES) -> Pass:
    """Time forward passes of the dense model on the texts that are reported on.

    Args:
        loaded: everything that the recipe names.
        number: batches that are timed; one has texts of medium length.
    """
    batches = sorted(loaded.data.roles.report.batches, key=lambda batch: main_input(batch).shape[1])
    last = len(batches) - 1
    chosen = [batches[index * last // (number - 1) if number > 1 else last // 2] for index in range(number)]
    chosen = [next(parts_of(batch, TIMED_TOKENS)) for batch in chosen]
    rows = output_bytes = 0.0
    seconds = torch.zeros(2, dtype=torch.float64)
    with torch.inference_mode():
        for batch in chosen:
            placed = {name: value.to(loaded.recipe.device) for name, value in batch.items()}
            features = model_inputs(placed)
            compared = loaded.task.compared_outputs(loaded.dense(**features), placed)  # also warms up
            _wait(loaded)
            seconds += torch.tensor(sorted(_seconds(loaded, features) for _ in range(2)))
            output_bytes += compared.numel() * compared.element_size()
            rows += len(main_input(batch))
    return Pass(float(seconds[0]) / rows, float(seconds[1]) / rows, output_bytes / rows)


def _seconds(loaded: Loaded, features: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    loaded.dense(**features)
    _wait(loaded)
    return time.perf_counter() - started


def _wait(loaded: Loaded) -> None:
    """Wait for a GPU, which computes after a call has returned."""
    if loaded.recipe.device != "cpu":
        torch.cuda.synchronize(loaded.recipe.device)


def rows_of(data: Any) -> int:
    """Number of sequences in the evaluation data of a task, which are batches somewhere within it."""
    if isinstance(data, Mapping) and data and all(isinstance(value, Tensor) for value in data.values()):
        return len(main_input(data))
    if isinstance(number := getattr(data, "rows", None), int):  # batches that are made when they are read
        return number
    if is_dataclass(data):
        return sum(rows_of(getattr(data, field.name)) for field in fields(data))
    parts: Iterable[Any] = data.values() if isinstance(data, Mapping) else data if isinstance(data, Sequence) else ()
    return 0 if isinstance(data, str) else sum(rows_of(part) for part in parts)


def largest_speedup(loaded: Loaded) -> Speed:
    """Time the model without anything that can be removed against the dense model, in the environment of the recipe.

    Like the contract, this measures whole models; the latency table of a run gives a more precise value.
    """
    # A low-rank option keeps all its ranks, because its matrix is cut by another group.
    timed = {group.name for group in loaded.structure.timed}
    kept = {
        group.name: torch.full((group.size,), bool(group.instead_of) or group.name not in timed)
        for group in loaded.structure
    }
    emptied = shrink(shared_copy(loaded.model), loaded.structure, Mask(kept), values=False)
    models = {"dense": loaded.dense, "emptied": emptied}
    timing = compare(models, loaded.environment, seed=loaded.recipe.seed, seconds=SPEEDUP_SECONDS, rounds=(3, 50))
    return timing.speedups["emptied"]
