"""``run(recipe, folder) -> Report``: the order of the stages. What happens for each target is in ``secateurs.delivery``.

One run folder; every stage leaves one artefact there, and a stage whose artefact is there already is not done again:

    recipe.yaml  latency.json  stages/dense.json  stages/levels.safetensors  stages/<target>/attempt-N  speedup-2.00x/
"""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter

from secateurs.artefact import read_json, write, write_json
from secateurs.delivery import Work, deliver, evaluation, measured_here, record
from secateurs.environment import machine
from secateurs.job import Track, silent
from secateurs.laps import Laps
from secateurs.latency_table import LatencyTable
from secateurs.loading import Loaded, load
from secateurs.methods._led import Led
from secateurs.processes import first, is_first, join, together
from secateurs.provenance import commit, versions
from secateurs.recipe import Recipe
from secateurs.report import ModelResult, Report
from secateurs.run_folder import check_folder, claim_folder
from secateurs.stages.latency import measure_table
from secateurs.target import Speedup
from secateurs.tasks import Score

__all__ = ["run"]

logger = logging.getLogger(__name__)

NOISY = 0.05
"""Relative scatter of timings above which the report says so."""


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    track: Track = silent,
    command: str | None = None,
) -> Report:
    """Prune one model to every target of a recipe.

    Args:
        recipe: what to do.
        folder: for the models, the report and the artefacts of the stages; must be new or empty unless resumed.
        resume: go on where an earlier run of the same recipe stopped.
        track: shows progress over an iterable.
        command: for the report.

    Returns:
        The report, already written to ``folder``.

    Raises:
        SecateursError: one line that says what to do.
    """
    folder = Path(folder)
    join(recipe.device)
    track = track if is_first() else silent
    first(lambda: check_folder(folder, recipe, resume=resume))
    clock = Laps()
    loaded = together(lambda: load(recipe))
    first(lambda: claim_folder(folder, recipe))
    clock.lap("load")
    table = first(lambda: _latency(loaded, folder, track))
    clock.lap("latency")
    for target in recipe.targets:
        if isinstance(target, Speedup):
            target.budget(table)  # unreachable targets are refused before the work starts
    stages = folder / "stages"
    dense = first(lambda: _dense_score(loaded, stages))
    clock.lap("evaluate dense")
    todo = first(lambda: [target for target in recipe.targets if not record(stages, target).is_file()])
    # A pruner rewrites tensors of the live model: the teacher is the dense model itself, or a real copy of it.
    teacher = loaded.dense if loaded.dense is not loaded.model else copy.deepcopy(loaded.model) if todo else None
    job = replace(loaded.job(stages, track), teacher=teacher)
    report = _describe(loaded, table, dense, command)
    if todo:
        pruner = loaded.method.prepare(job) if loaded.method.trains else Led(loaded.method, job)
        clock.lap("prepare")
        work = Work(loaded, table, dense, job, pruner, teacher, folder, report)
        for target in todo:
            deliver(work, target, dict(clock.laps))
    return first(lambda: _finish(report, recipe, folder))


def _finish(report: Report, recipe: Recipe, folder: Path) -> Report:
    """The report with all models, written."""
    results = TypeAdapter(ModelResult)
    done = [results.validate_python(read_json(record(folder / "stages", target))) for target in recipe.targets]
    report = replace(report, models=done, notes=[*report.notes, *_of_zeros(done)])
    report.save(folder)
    return report


def _latency(loaded: Loaded, folder: Path, track: Track) -> LatencyTable:
    """The table of this folder, the one the user brought, or a new one."""
    path = folder / "latency.json"
    if path.is_file():
        table = LatencyTable.load(path)
    elif loaded.recipe.latency_table:
        table = LatencyTable.load(Path(loaded.recipe.latency_table))
    else:
        rebuilt = loaded.model is not loaded.dense
        table = measure_table(
            loaded.model,
            loaded.structure.timed,
            loaded.environment,
            dense=loaded.dense if rebuilt else None,
            seed=loaded.recipe.seed,
            track=track,
        )
    table.check_groups(group.name for group in loaded.structure.timed)
    if not path.is_file():
        write(path, table.save)
    return table


def _of_zeros(models: list[ModelResult]) -> list[str]:
    """What zeros are not."""
    if not any(result.has_zeros for result in models):
        return []
    return [
        "Nothing was cut from models with zeros: their tensors have full size, and they are neither smaller nor faster. "
        "A sparsity that was asked for counts zeros as removed."
    ]


def _dense_score(loaded: Loaded, stages: Path) -> Score | None:
    """What the dense model reaches; ``None`` without labelled data."""
    if loaded.data.evaluation is None:
        return None
    path = stages / "dense.json"
    if path.is_file():
        return Score(**read_json(path))
    score = loaded.task.evaluate(loaded.dense, evaluation(loaded, loaded.dense), loaded.recipe.device)
    write_json(path, asdict(score))
    return score


def _describe(loaded: Loaded, table: LatencyTable, dense: Score | None, command: str | None) -> Report:
    """The report of this run, still without models."""
    recipe = loaded.recipe
    notes = []
    if table.noise > NOISY:
        steadier = (
            "" if recipe.clock == "cpu" or recipe.device != "cpu" else "; --clock cpu --threads 1 gives steadier ones"
        )
        notes.append(f"Timings on this machine scattered by {100 * table.noise:.0f} %{steadier}.")
    if not measured_here(table, loaded.environment):
        notes.append(
            f"The latency table is of {table.environment} on {table.machine.get('processor')}: the speed-ups measured "
            "here say nothing about that, and were not held to the targets."
        )
    if loaded.recovering:
        notes.append("Recovery trained on the texts the divergence is taken on; the metric's texts it has not seen.")
    return Report(
        name=f"{recipe.name or Path(recipe.model).name} {recipe.method}",
        model=recipe.model,
        method=recipe.method,
        task=recipe.task,
        environment=loaded.environment.to_dict(),
        machine=machine(),
        versions=versions(),
        seeds=[recipe.seed],
        recipe=recipe.to_dict(),
        data=loaded.data.description,
        models=[],
        preset=recipe.preset,
        commit=commit(),
        command=command,
        latency_table=table.to_dict(),
        target_kind="sparsity" if recipe.sparsity else "speedup",
        notes=notes,
        higher_is_better=dense.higher_is_better if dense else True,
        auto_class=loaded.task.auto_class,
        pipeline_tag=loaded.task.pipeline_tag,
    )
