"""``run(recipe, folder) -> Report``: the only file that knows the order of the stages.

One run folder; every stage leaves one artefact there, and a stage whose artefact is there already is not done again:

    recipe.yaml  latency.json  stages/dense.json  stages/levels.safetensors  stages/<target>/attempt-N  speedup-2.00x/
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from secateurs import checkpoint, contract
from secateurs.arithmetic import native_bfloat16
from secateurs.artefact import read_json, write, write_json
from secateurs.cost import LatencyTable, ParameterCost
from secateurs.environment import Environment, machine
from secateurs.job import Job, silent
from secateurs.loading import Loaded, load
from secateurs.mask import Mask
from secateurs.provenance import commit, versions
from secateurs.recipe import Recipe
from secateurs.report import Divergence, Interval, Kept, Metric, ModelResult, Report, card
from secateurs.run_folder import open_folder
from secateurs.shrink import shrink
from secateurs.stages.evaluate import divergence, signals
from secateurs.stages.latency import measure_table
from secateurs.stages.measure import Measurement, compare
from secateurs.stages.train import Recovery, recover
from secateurs.target import Speedup
from secateurs.tasks import Score

__all__ = ["run"]

logger = logging.getLogger(__name__)

Track = Callable[..., Iterable[Any]]

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
    open_folder(folder, recipe, resume=resume)
    clock = _Clock()
    loaded = load(recipe)
    clock.lap("load")
    table = _latency(loaded, folder, track)
    clock.lap("latency")
    for target in recipe.targets:
        target.budget(table)  # unreachable targets are refused before the work starts
    stages = folder / "stages"
    dense = _dense_score(loaded, stages)
    clock.lap("evaluate dense")
    job = Job(
        loaded.model,
        loaded.structure,
        loaded.data.calibration,
        loaded.task,
        stages,
        recipe.seed,
        torch.device(recipe.device),
        track,
    )
    todo = [target for target in recipe.targets if not _record(stages, target).is_file()]
    done: list[ModelResult] = []
    report = _describe(loaded, table, dense, command)
    if todo:
        # The pruner rewrites tensors of the live model: the teacher is a real copy.
        teacher = copy.deepcopy(loaded.model)
        pruner = loaded.method.prepare(job)
        clock.lap("prepare")
        work = _Work(loaded, table, dense, job, pruner, teacher, folder, report)
        for target in todo:
            _prune_one(work, target, dict(clock.laps))
    for target in recipe.targets:
        done.append(TypeAdapter(ModelResult).validate_python(read_json(_record(stages, target))))
    report = replace(report, models=done)
    report.save(folder)
    return report


@dataclass(frozen=True)
class _Work:
    """What all targets share."""

    loaded: Loaded
    table: LatencyTable
    dense: Score | None
    job: Job
    pruner: Any
    teacher: Any
    folder: Path
    report: Report

    def measure(self, mask: Mask) -> Measurement:
        """Dense, and dense shrunk to a mask, interleaved in this process."""
        shrunk = shrink(copy.deepcopy(self.teacher), self.loaded.structure, mask)
        models = {"dense": self.teacher, "pruned": shrunk}
        return compare(models, self.loaded.environment, seed=self.loaded.recipe.seed)

    def build(self, mask: Mask) -> Any:
        """The shrunk model with its final weights."""
        self.pruner.install(mask)
        # A real copy: the pruner goes on swapping tensors of the live model.
        return shrink(copy.deepcopy(self.job.model), self.job.structure, mask)


def _prune_one(work: _Work, target: Speedup, seconds: dict[str, float]) -> None:
    """Prune, recover, evaluate, save: one model folder and one record."""
    loaded, recipe = work.loaded, work.loaded.recipe
    place = work.job.folder / target.folder
    clock = _Clock()
    attempt = contract.keep(
        target,
        work.table,
        work.pruner,
        work.measure,
        place,
        tolerance=recipe.tolerance,
        enforce=_measured_here(work.table, loaded.environment),
    )
    clock.lap("search")
    model = work.build(attempt.mask)
    clock.lap("refit")
    if recipe.recover_epochs:
        how = Recovery(
            recipe.recover_epochs,
            recipe.learning_rate,
            recipe.train_batch_size,
            bf16=native_bfloat16(recipe.device),
        )
        data = loaded.data
        recover(
            model, work.teacher, loaded.task, data.train, data.collate, how, place / "recovery",
            seed=recipe.seed, device=recipe.device,
        )  # fmt: skip
        clock.lap("recover")
    metric, apart = _quality(work, model)
    clock.lap("evaluate")
    counts = attempt.mask.counts
    result = ModelResult(
        target=target.value,
        predicted_speedup=attempt.predicted,
        measured_speedup=Interval(**attempt.speed.to_dict()),
        latency_ms=attempt.pruned.latency_ms,
        dense_latency_ms=attempt.dense.latency_ms,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_parameters=sum(parameter.numel() for parameter in work.teacher.parameters()),
        sparsity=float(ParameterCost.of(work.teacher, loaded.structure).sparsity(counts)),
        metric=metric,
        divergence=apart,
        seconds={**seconds, **clock.laps},
        path=target.folder,
        kept={group.name: Kept(group.kind, group.size, counts[group.name]) for group in loaded.structure},
        met=attempt.met,
        attempts=attempt.number,
    )
    _save(work, model, attempt.mask, result)
    write_json(_record(work.job.folder, target), asdict(result))  # last: without it the target is not done
    shutil.rmtree(place, ignore_errors=True)


def _quality(work: _Work, model: Any) -> tuple[Metric | None, Divergence]:
    """The task's metric where there is labelled data, and the distance from the dense outputs always."""
    loaded, device = work.loaded, work.loaded.recipe.device
    metric = None
    if work.dense is not None:
        score = loaded.task.evaluate(model, _evaluation(loaded, work.teacher), device)
        metric = Metric(score.name, score.value, work.dense.value)
    wanted = signals(work.teacher, loaded.task, loaded.held_out, device)
    apart = divergence(model, loaded.task, loaded.held_out, wanted, device)
    return metric, Divergence(loaded.task.divergence_name, apart)


def _save(work: _Work, model: Any, mask: Mask, result: ModelResult) -> None:
    """The model folder: weights, tokenizer, card, mask, and the measured numbers in its config."""
    loaded = work.loaded
    values = asdict(result)
    told = ("target", "predicted_speedup", "measured_speedup", "latency_ms", "dense_latency_ms", "metric", "divergence")
    details = {name: values[name] for name in told}

    def extras(into: Path) -> None:
        loaded.task.save_extras(loaded.recipe.model, into)
        mask.save(into / "mask.safetensors")

    checkpoint.save(
        model,
        loaded.tokenizer,
        work.folder / result.path,
        details={**details, "environment": loaded.environment.to_dict(), "machine": machine()},
        card=card(work.report, result),
        extras=extras,
    )


def _latency(loaded: Loaded, folder: Path, track: Track) -> LatencyTable:
    """The table of this folder, the one the user brought, or a new one."""
    path = folder / "latency.json"
    if path.is_file():
        table = LatencyTable.load(path)
    elif loaded.recipe.latency_table:
        table = LatencyTable.load(Path(loaded.recipe.latency_table))
    else:
        table = measure_table(loaded.model, loaded.structure, loaded.environment, seed=loaded.recipe.seed, track=track)
    table.check_groups(group.name for group in loaded.structure)
    if not path.is_file():
        write(path, table.save)
    return table


def _measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Timings here only judge a table that was measured here."""
    here = machine()
    same = all(table.machine.get(part) == here[part] for part in ("processor", "gpu"))
    return same and table.environment == environment


def _dense_score(loaded: Loaded, stages: Path) -> Score | None:
    """What the dense model reaches; ``None`` without labelled data."""
    if loaded.data.evaluation is None:
        return None
    path = stages / "dense.json"
    if path.is_file():
        return Score(**read_json(path))
    score = loaded.task.evaluate(loaded.model, _evaluation(loaded, loaded.model), loaded.recipe.device)
    write_json(path, asdict(score))
    return score


def _evaluation(loaded: Loaded, dense: Any) -> Any:
    return loaded.task.reference(dense, loaded.data.evaluation, loaded.recipe.device)


def _describe(loaded: Loaded, table: LatencyTable, dense: Score | None, command: str | None) -> Report:
    """The report of this run, still without models."""
    recipe = loaded.recipe
    notes = []
    if table.noise > NOISY:
        notes.append(
            f"Timings on this machine scattered by {100 * table.noise:.0f} %; --clock cpu --threads 1 gives steadier ones."
        )
    if not _measured_here(table, loaded.environment):
        notes.append(
            f"The latency table was measured elsewhere ({table.machine.get('processor')}, {table.environment}): "
            "the speed-ups measured here say nothing about that machine."
        )
    return Report(
        name=f"{Path(recipe.model).name} {recipe.method}",
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
        notes=notes,
        higher_is_better=dense.higher_is_better if dense else True,
        auto_class=loaded.task.auto_class,
        pipeline_tag=loaded.task.pipeline_tag,
    )


def _record(stages: Path, target: Speedup) -> Path:
    return stages / f"{target.folder}.json"


class _Clock:
    """Seconds by stage, and one line a stage in the log."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
        logger.info("%s: %.1f s", name, self.laps[name])
