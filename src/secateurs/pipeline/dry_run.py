"""``--dry-run``: the stages of a run, with estimates of their time and of the memory.

Model and data are read and checked, and one batch is timed. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Sized
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from secateurs.latency.table import LatencyTable
from secateurs.oneshot.token_weights import TOKENS
from secateurs.pipeline.load import Loaded, load
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import check_folder
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Speedup
from secateurs.tasks.base import model_inputs

__all__ = ["dry_run_table"]

TABLE_SECONDS = 25.0
"""Seconds of a latency table, or of one measurement of the contract, where timings are steady."""

ACTIVATIONS = 30
"""Approximate number of tensors of the hidden size that a layer keeps for its backward pass."""


def dry_run_table(recipe: Recipe, folder: Path | None = None, *, resume: bool = False) -> Table:
    """A table with one row per stage.

    Args:
        recipe: what would be done.
        folder: folder for the results, if it is known.
        resume: continue the run in ``folder``.

    Raises:
        SecateursError: anything that would stop the run at its start.
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
    second, output_bytes = _one_batch(loaded)
    roles = loaded.data.roles
    samples = roles.fit.rows or roles.accept.rows
    rows_of_training = len(loaded.data.train) if isinstance(loaded.data.train, Sized) else 0
    batch = loaded.context(Path()).rows_a_step
    passes = loaded.method.forward_passes(loaded.structure, samples, rows_of_training, batch)
    targets = len(recipe.targets)
    rows = [
        ("latency", f"table for {loaded.environment}", 0.0 if recipe.latency_table else TABLE_SECONDS),
        (
            "prepare",
            f"{loaded.method.name}: {samples} texts, {len(loaded.structure)} groups",
            second * passes.fit,
        ),
    ]
    for target in recipe.targets:
        rows.append((f"prune to {target}", f"folder {target.folder}", second * passes.per_target + TABLE_SECONDS))
    if how := loaded.finetuning:
        read = how.steps * batch or how.epochs * rows_of_training
        # forward and backward of the student (3), forward of the teacher (1)
        rows.append(("recover", f"{how}, each target", targets * read * 4 * second))
    total = sum(seconds for *_, seconds in rows)
    table = Table(
        "stage", "what", "about", title=Text(f"{recipe.model}: {loaded.data.summary()}"), title_justify="left"
    )
    for name, what, seconds in rows:
        table.add_row(name, what, _duration(seconds))
    table.add_section()
    table.add_row("in all", "", _duration(total))
    table.caption = f"memory: about {_memory_bytes(loaded, output_bytes) / 1e9:.1f} GB. Nothing was written."
    return table


def _one_batch(loaded: Loaded) -> tuple[float, float]:
    """Seconds per sequence of one forward pass, and bytes per sequence of the outputs that models are compared by."""
    batch = {name: value.to(loaded.recipe.device) for name, value in loaded.data.roles.report.batches[0].items()}
    features = model_inputs(batch)
    with torch.inference_mode():
        compared = loaded.task.compared_outputs(loaded.dense(**features), batch)
        started = time.perf_counter()
        loaded.dense(**features)
        if loaded.recipe.device != "cpu":
            torch.cuda.synchronize()
    count = len(batch["input_ids"])
    return (time.perf_counter() - started) / count, compared.numel() * compared.element_size() / count


def _memory_bytes(loaded: Loaded, output_bytes: float) -> float:
    """Dense model, teacher and candidate; Gram matrices and factors (fp64); hidden states of the search and of the refit;
    and the dense outputs that candidates and results are compared with."""
    cost = ParameterCost.of(loaded.model, loaded.structure)
    weights = 4.0 * float(cost(loaded.structure.sizes))
    grams = sum(8.0 * (group.size * group.width) ** 2 for group in loaded.structure)
    roles = loaded.data.roles
    tokens, replayed_tokens = (
        sum(batch["input_ids"].numel() for role in parts for batch in role.batches)
        for parts in ((roles.fit,), (roles.search, roles.accept))
    )
    hidden = loaded.dense.config.hidden_size * 4.0
    compared = roles.search.rows + roles.accept.rows + roles.report.rows
    outputs = compared * output_bytes
    layers = len(loaded.structure.layers)
    replayed = min(4e9, replayed_tokens * hidden * layers)
    fitted = min(3e9, 6 * tokens * hidden)  # two sub-blocks of one layer, in both models
    weighed = ACTIVATIONS * TOKENS * hidden * layers if getattr(loaded.method, "weighs_tokens", False) else 0.0
    return 3 * weights + 2 * grams + outputs + replayed + fitted + weighed + 0.5e9


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
