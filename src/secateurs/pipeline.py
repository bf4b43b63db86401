"""``run(recipe, folder) -> Report``: the only file that knows the order of the stages.

One run folder; every stage leaves one artefact there, and a stage whose artefact is there already is not done again:

    recipe.yaml  latency.json  stages/dense.json  stages/levels.safetensors  stages/<target>/attempt-N  speedup-2.00x/
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateurs import checkpoint, contract
from secateurs.cost import LatencyTable, ParameterCost
from secateurs.environment import Environment, machine
from secateurs.errors import CheckpointError, RecipeError
from secateurs.job import Job, silent
from secateurs.methods import method as find_method
from secateurs.provenance import commit, versions
from secateurs.recipe import Recipe
from secateurs.report import Divergence, Interval, Kept, Metric, ModelResult, Report, card
from secateurs.stages.evaluate import divergence, signals
from secateurs.stages.latency import measure_table
from secateurs.stages.measure import compare
from secateurs.stages.train import Recovery, recover
from secateurs.target import Speedup
from secateurs.tasks import Columns, Score, TaskData
from secateurs.tasks import task as find_task
from secateurs.workload import check

__all__ = ["Loaded", "load", "run"]

logger = logging.getLogger(__name__)

Track = Callable[..., Iterable[Any]]

NOISY = 0.05
"""Relative scatter of timings above which the report says so."""

HELD_OUT = 0.25
"""As many texts again, in proportion to the calibration samples, on which the reported divergence is taken."""


@dataclass(frozen=True)
class Loaded:
    """Everything a recipe names, in memory."""

    recipe: Recipe
    task: Any
    method: Any
    model: Any
    tokenizer: Any
    data: TaskData
    held_out: list[dict[str, torch.Tensor]]
    structure: Any
    environment: Environment


def load(recipe: Recipe) -> Loaded:
    """Read model and data, and refuse what cannot work before any work is done.

    Raises:
        SecateursError: whatever is missing or does not fit, in one line.
    """
    task = find_task(recipe.task.replace("-", "_"))
    method = find_method(recipe.method.replace("-", "_"), recipe.preset, **recipe.hyperparameters)
    environment = recipe.environment
    check(environment)
    model, tokenizer = task.load(
        recipe.model, dtype=torch.float32, device=recipe.device, trust_remote_code=recipe.trust_remote_code
    )
    check(environment, model)
    structure = method.structure(model)
    extra = max(1, round(recipe.calibration_samples * HELD_OUT))
    data = task.read(
        recipe.data,
        model,
        tokenizer,
        columns=Columns(**recipe.columns.model_dump()),
        batch_size=recipe.batch_size,
        sequence_length=recipe.sequence_length,
        calibration_samples=recipe.calibration_samples + extra,
        seed=recipe.seed,
        evaluation_samples=recipe.evaluation_samples,
    )
    batches, held_out = _split(data.calibration, HELD_OUT / (1 + HELD_OUT))
    data = replace(data, calibration=batches)
    return Loaded(recipe, task, method, model, tokenizer, data, held_out, structure, environment)


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
    _open_folder(folder, recipe, resume)
    clock = _Clock()
    loaded = load(recipe)
    clock.lap("load")
    stages = folder / "stages"
    table = _latency(loaded, folder, track)
    clock.lap("latency")
    for target in recipe.targets:
        target.budget(table)  # unreachable targets are refused before the work starts
    dense = _dense_score(loaded, stages, track)
    clock.lap("evaluate")
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
    todo = [target for target in recipe.targets if not (stages / f"{target.folder}.json").is_file()]
    # Everything that needs the dense model as it was comes before the pruner rewrites its tensors.
    teacher = copy.deepcopy(loaded.model) if todo else loaded.model
    pruner = loaded.method.prepare(job) if todo else None
    clock.lap("prepare")
    results: list[ModelResult] = []
    report = _report(loaded, table, dense, results, command)
    for target in recipe.targets:
        record = stages / f"{target.folder}.json"
        if target in todo:
            _one_target(loaded, target, table, dense, job, pruner, teacher, folder, record, clock, report, track)
        values = json.loads(record.read_text())
        results.append(_result(values))
    report = replace(report, models=results)
    report.save(folder)
    return report


def _one_target(
    loaded: Loaded,
    target: Speedup,
    table: LatencyTable,
    dense: Score | None,
    job: Job,
    pruner: Any,
    teacher: Any,
    folder: Path,
    record: Path,
    clock: _Clock,
    report: Report,
    track: Track,
) -> None:
    """Prune, recover, evaluate, save: one model folder and one record."""
    recipe = loaded.recipe
    seconds = dict(clock.laps)
    clock.lap("between")
    place = job.folder / target.folder
    attempt = contract.keep(
        target,
        table,
        pruner,
        job,
        lambda model: compare({"dense": teacher, "pruned": model}, loaded.environment, seed=recipe.seed, track=None),
        place,
        tolerance=recipe.tolerance,
        enforce=_measured_here(table, loaded.environment),
    )
    seconds["prune"] = clock.lap("prune")
    model = attempt.model
    if recipe.recover_epochs:
        recover(
            model,
            teacher,
            loaded.task,
            loaded.data.train,
            loaded.data.collate,
            Recovery(
                recipe.recover_epochs,
                recipe.learning_rate,
                recipe.train_batch_size,
                bf16=recipe.device == "cpu" or recipe.dtype == "bfloat16",
            ),
            place / "recovery",
            seed=recipe.seed,
            device=recipe.device,
        )
        seconds["recover"] = clock.lap("recover")
    score = loaded.task.evaluate(model, _evaluation(loaded, teacher), recipe.device) if dense else None
    wanted = signals(teacher, loaded.task, loaded.held_out, recipe.device)
    apart = divergence(model, loaded.task, loaded.held_out, wanted, recipe.device)
    seconds["evaluate"] = clock.lap("evaluate")
    cost = ParameterCost.of(loaded.model, loaded.structure)
    counts = attempt.mask.counts
    kept = {group.name: Kept(group.kind, group.size, counts[group.name]) for group in loaded.structure}
    result = ModelResult(
        target=target.value,
        predicted_speedup=attempt.predicted,
        measured_speedup=Interval(**attempt.speed.to_dict()),
        latency_ms=attempt.pruned.latency_ms,
        dense_latency_ms=attempt.dense.latency_ms,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_parameters=sum(parameter.numel() for parameter in teacher.parameters()),
        sparsity=float(cost.sparsity(counts)),
        metric=Metric(score.name, score.value, dense.value) if score and dense else None,
        divergence=Divergence(loaded.task.divergence_name, apart),
        seconds=seconds,
        path=target.folder,
        kept=kept,
        met=attempt.met,
        attempts=attempt.number,
    )
    values = asdict(result)
    checkpoint.save(
        model,
        loaded.tokenizer,
        folder / target.folder,
        details={key: values[key] for key in ("target", "measured_speedup", "latency_ms", "metric", "divergence")}
        | {"environment": loaded.environment.to_dict(), "machine": machine()},
        card=card(report, result),
        extras=lambda into: loaded.task.save_extras(recipe.model, into),
    )
    attempt.mask.save(folder / target.folder / "mask.safetensors")
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(values, default=str))
    partial.replace(record)
    shutil.rmtree(place, ignore_errors=True)


def _report(
    loaded: Loaded, table: LatencyTable, dense: Score | None, models: list[ModelResult], command: str | None
) -> Report:
    """The report of this run, with the models there are so far."""
    recipe = loaded.recipe
    notes = []
    if table.noise > NOISY:
        notes.append(
            f"Timings on this machine scattered by {100 * table.noise:.0f} %; for steadier ones use --clock cpu --threads 1."
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
        models=models,
        preset=recipe.preset,
        commit=commit(),
        command=command,
        latency_table=table.to_dict(),
        notes=notes,
        higher_is_better=dense.higher_is_better if dense else True,
        auto_class=loaded.task.auto_class,
        pipeline_tag=loaded.task.pipeline_tag,
    )


def _open_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """A new folder, or the one of the same recipe."""
    saved = folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a folder for the results")
    if folder.is_dir() and any(folder.iterdir()):
        if not resume:
            raise RecipeError(
                f"{folder} is not empty; name another folder, or add --resume to go on with the run in it"
            )
        if not saved.is_file():
            raise RecipeError(f"{folder} holds no run (no recipe.yaml); name the folder of the run to resume")
        earlier = Recipe.load(saved)
        changed = [name for name in Recipe.model_fields if getattr(earlier, name) != getattr(recipe, name)]
        if changed:
            raise RecipeError(
                f"{folder} holds a run of another recipe ({', '.join(changed)} differ); resume with the same one"
            )
        return
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        saved.write_text(recipe.to_yaml())
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error.strerror}") from None


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
        partial = path.with_suffix(".partial")
        table.save(partial)
        partial.replace(path)
    return table


def _measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Timings here only judge a table that was measured here."""
    here = machine()
    return table.environment == environment and all(
        table.machine.get(part) == here[part] for part in ("processor", "gpu")
    )


def _dense_score(loaded: Loaded, stages: Path, track: Track) -> Score | None:
    """What the dense model reaches; ``None`` without labelled data."""
    if loaded.data.evaluation is None:
        return None
    path = stages / "dense.json"
    if path.is_file():
        return Score(**json.loads(path.read_text()))
    score = loaded.task.evaluate(loaded.model, _evaluation(loaded, loaded.model), loaded.recipe.device)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(score), default=str))
    partial.replace(path)
    return score


def _evaluation(loaded: Loaded, dense: Any) -> Any:
    return loaded.task.reference(dense, loaded.data.evaluation, loaded.recipe.device)


def _split(batches: list[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """The first batches to calibrate on, the last to report on; a single batch serves both."""
    held = min(len(batches) - 1, max(1, round(len(batches) * fraction)))
    return (batches[:-held], batches[-held:]) if held else (batches, batches)


def _result(values: dict[str, Any]) -> ModelResult:
    from pydantic import TypeAdapter

    return TypeAdapter(ModelResult).validate_python(values)


class _Clock:
    """Seconds by stage, and one line a stage in the log."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> float:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now
        logger.info("%s: %.1f s", name, self.laps[name])
        return self.laps[name]
