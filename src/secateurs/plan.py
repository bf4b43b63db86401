"""``--dry-run``: what a run would do, about how long it would take and how much memory, after really reading everything.

Model and data are read and checked, and one batch is timed; nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Sized
from pathlib import Path

import torch
from rich.table import Table

from secateurs.cost import ParameterCost
from secateurs.latency_table import LatencyTable
from secateurs.loading import Loaded, load
from secateurs.recipe import Recipe
from secateurs.run_folder import check_folder
from secateurs.stages.importance import TOKENS
from secateurs.target import Speedup
from secateurs.tasks import model_inputs

__all__ = ["plan"]

SEARCHED = 384
"""Texts of each half of a search, by default."""

TABLE_SECONDS = 25.0
"""A latency table stops adding rounds after about this long where timings are steady; so does one contract measurement."""

ACTIVATIONS = 30
"""Tensors of the hidden size that a layer keeps for its backward pass, about."""


def plan(recipe: Recipe, folder: Path | None = None, *, resume: bool = False) -> Table:
    """One row a stage.

    Args:
        recipe: what would be done.
        folder: where its results would go, if that is known already.
        resume: go on with the run in it.

    Raises:
        SecateursError: whatever would stop the run at its start.
    """
    if folder is not None:
        check_folder(folder, recipe, resume=resume)
    loaded = load(recipe)
    if recipe.latency_table:
        given = LatencyTable.load(Path(recipe.latency_table))
        given.check_groups(group.name for group in loaded.structure.timed)
        for target in recipe.targets:
            if isinstance(target, Speedup):
                target.budget(given)
    second, signal_bytes = _one_batch(loaded)
    samples = sum(len(batch["input_ids"]) for batch in loaded.data.calibration)
    rows_of_training = len(loaded.data.train) if isinstance(loaded.data.train, Sized) else 0
    batch = loaded.job(Path()).rows_a_step
    forwards = loaded.method.forwards(loaded.structure, samples, rows_of_training, batch)
    targets = len(recipe.targets)
    rows = [
        ("latency", f"table for {loaded.environment}", 0.0 if recipe.latency_table else TABLE_SECONDS),
        (
            "prepare",
            f"{loaded.method.name}: {samples} texts, {len(loaded.structure)} groups",
            second * forwards["prepare"],
        ),
    ]
    for target in recipe.targets:
        rows.append((f"prune to {target}", f"folder {target.folder}", second * forwards["target"] + TABLE_SECONDS))
    if how := loaded.recovering:
        read = how.steps * batch or how.epochs * rows_of_training
        # forward and backward of the student (3), forward of the teacher (1)
        rows.append(("recover", f"{how}, each target", targets * read * 4 * second))
    total = sum(seconds for *_, seconds in rows)
    table = Table("stage", "what", "about", title=f"{recipe.model}: {loaded.data.description}", title_justify="left")
    for name, what, seconds in rows:
        table.add_row(name, what, _duration(seconds))
    table.add_section()
    table.add_row("in all", "", _duration(total))
    table.caption = f"memory: about {_memory_bytes(loaded, samples, signal_bytes) / 1e9:.1f} GB. Nothing was written."
    return table


def _one_batch(loaded: Loaded) -> tuple[float, float]:
    """Seconds a sequence of a calibration batch, forward only, and bytes a sequence of what models are compared by."""
    batch = {name: value.to(loaded.recipe.device) for name, value in loaded.data.calibration[0].items()}
    features = model_inputs(batch)
    with torch.inference_mode():
        signal = loaded.task.signal(loaded.dense(**features), batch)
        started = time.perf_counter()
        loaded.dense(**features)
        if loaded.recipe.device != "cpu":
            torch.cuda.synchronize()
    count = len(batch["input_ids"])
    return (time.perf_counter() - started) / count, signal.numel() * signal.element_size() / count


def _memory_bytes(loaded: Loaded, samples: int, signal_bytes: float) -> float:
    """Dense model, teacher and candidate; Gram matrices and factors (fp64); hidden states of the search and the fit;
    the dense outputs that candidates and results are compared with."""
    cost = ParameterCost.of(loaded.model, loaded.structure)
    weights = 4.0 * float(cost(loaded.structure.sizes))
    grams = sum(8.0 * (group.size * group.width) ** 2 for group in loaded.structure)
    tokens = sum(batch["input_ids"].numel() for batch in loaded.data.calibration)
    hidden = loaded.model.config.hidden_size * 4.0
    searched = min(samples, 2 * SEARCHED)
    compared = len(loaded.held_out) * loaded.recipe.batch_size + searched
    outputs = compared * signal_bytes
    layers = len(loaded.structure.layers)
    replayed = min(4e9, tokens * searched / samples * hidden * layers)
    fitted = min(3e9, 6 * tokens * hidden)  # what two sub-blocks read and leave in front of one layer of both models
    weighed = ACTIVATIONS * TOKENS * hidden * layers if getattr(loaded.method, "weighs", False) else 0.0
    return 3 * weights + 2 * grams + outputs + replayed + fitted + weighed + 0.5e9


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
