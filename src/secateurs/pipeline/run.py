"""``run(recipe, folder) -> Report``: the order of the stages. ``secateurs.pipeline.one_target`` has the steps of one target.

Every stage leaves one artifact in the run folder, and a stage whose artifact is there is not done again:

    recipe.yaml  latency.json  stages/dense.json  stages/levels  stages/<target>/attempt-N  speedup-2.00x/
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from secateurs.artifacts import read_json, write, write_json
from secateurs.checkpoint.hooks import installed
from secateurs.context import PruneContext
from secateurs.distributed import first, is_first, join, together
from secateurs.errors import TargetUnreachable
from secateurs.latency.environment import machine
from secateurs.latency.interleave import NOISE_LIMIT
from secateurs.latency.profile import measure_table
from secateurs.latency.table import LatencyTable
from secateurs.pipeline.given_table import given_table, measured_here, place_of
from secateurs.pipeline.gradual import GradualSteps, with_finished_targets
from secateurs.pipeline.load import Loaded, load, with_texts
from secateurs.pipeline.minutes import choose_texts, plan_and_check
from secateurs.pipeline.one_target import prune_to_target
from secateurs.pipeline.provenance import commit, versions
from secateurs.pipeline.rank_zero import RankZeroFitted
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.recipe_targets import reachable
from secateurs.pipeline.run_folder import check_folder, claim_folder, record_processes
from secateurs.pipeline.run_plan import Costs, plan_run, steers
from secateurs.pipeline.run_progress import RunProgress
from secateurs.pipeline.stage_timer import StageTimer
from secateurs.pipeline.target_context import TargetContext, evaluation_data, record_path
from secateurs.pipeline.time_budget import TimeBudget
from secateurs.progress import Track, silent
from secateurs.report.minutes import Minutes
from secateurs.report.report import Report
from secateurs.report.values import ModelResult, Texts
from secateurs.structure.target import Speedup, Target
from secateurs.tasks.base import Score
from secateurs.tasks.roles import USES

__all__ = ["run"]

logger = logging.getLogger(__name__)


@installed()
def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    track: Track = silent,
    command: str | None = None,
    announce: Callable[[str], None] = logger.info,
    progress: RunProgress | None = None,
) -> Report:
    """Prune one model to every target of a recipe.

    Args:
        recipe: what to do.
        folder: folder for the models, the report and the artifacts of the stages; new or empty, unless resumed.
        resume: continue an earlier run of the same recipe.
        track: shows the progress of every stage.
        command: command line, for the report.
        announce: is given what was understood about the data, before the work starts.
        progress: is told the stages and the best figures so far, and predicts the time left.

    Returns:
        The report, already written to ``folder``.

    Raises:
        SecateursError: one line that says what is wrong and what to do.
    """
    folder = Path(folder)
    join(recipe.device)
    track = track if is_first() else silent
    first(lambda: check_folder(folder, recipe, resume=resume))
    recipe = first(lambda: with_finished_targets(recipe, folder))
    given = first(lambda: given_table(recipe, folder))
    timer, stages = StageTimer(progress), folder / "stages"
    loaded = together(lambda: load(recipe))
    time = TimeBudget(recipe.minutes, timer.progress, stages / "minutes.json") if recipe.minutes else None
    costs = first(lambda: _plan(timer.progress, loaded, time, folder, given, resume=resume))
    first(lambda: claim_folder(folder, recipe))
    if is_first():
        announce(loaded.data.summary())
    timer.end("load")
    table = first(lambda: _latency(loaded, given, folder, track))
    timer.end("latency")
    targets = reachable(recipe.speedup, recipe.targets, table.largest_speedup)
    for target in targets:
        if isinstance(target, Speedup):
            target.budget(table)  # refuse unreachable targets before the work starts
    for target in set(recipe.targets) - set(targets):  # of `auto`
        timer.progress.finish(str(target))
    dense = first(lambda: _dense_score(loaded, stages))
    timer.end("evaluate dense")
    todo = first(lambda: [target for target in targets if not record_path(stages, target).is_file()])
    if time is not None and todo:
        steered = steers(loaded, table)
        texts = first(lambda: choose_texts(loaded, timer.progress, time, todo, costs, steered=steered))
        loaded = with_texts(loaded, texts) if texts and texts < loaded.data.roles.fit.rows else loaded
    teacher = loaded.teacher() if todo else None
    context = replace(loaded.context(stages, track), teacher=teacher)
    report = _describe(loaded, table, dense, command)
    if todo:
        if loaded.trains:
            first(lambda: record_processes(folder))
        make = partial(
            TargetContext,
            loaded,
            table,
            dense,
            teacher=teacher,
            folder=folder,
            report=report,
            progress=timer.progress,
            time=time,
        )
        prune = _pruner(make, loaded, context, targets, folder, timer)
        for target in todo:
            try:
                prune(target)
            except TargetUnreachable:  # a quality that no cut keeps: the targets before it are finished
                if is_first():  # without a message: the other processes have raised already
                    _finish(report, targets, folder)
                raise
            if time is not None:
                time.targets_left -= 1
                first(time.save)
    spent = None if time is None else time.result(trainable=loaded.trains)
    return first(lambda: _finish(report, targets, folder, spent))


def _pruner(
    make: Callable[..., TargetContext],
    loaded: Loaded,
    context: PruneContext,
    targets: Sequence[Target],
    folder: Path,
    timer: StageTimer,
) -> Callable[[Target], None]:
    """Do the work that all targets share, and return what prunes to one of them. In a gradual run each prepares anew."""
    if loaded.recipe.gradual:
        return GradualSteps(make, loaded, context, targets, folder, timer.progress, dict(timer.seconds)).prune
    fitted = loaded.method.fit(context) if loaded.method.trains else RankZeroFitted(loaded.method, context)
    timer.end("prepare")
    return partial(prune_to_target, make(context=context, fitted=fitted), seconds=dict(timer.seconds))


def _plan(
    progress: RunProgress,
    loaded: Loaded,
    time: TimeBudget | None,
    folder: Path,
    given: LatencyTable | None,
    *,
    resume: bool,
) -> Costs:
    """Plan the run; with ``minutes``, refuse too few."""
    if time is None:
        return plan_run(progress, loaded, folder, given, resumed=resume)
    return plan_and_check(loaded, progress, time, folder, given)


def _finish(report: Report, targets: Sequence[Target], folder: Path, spent: Minutes | None = None) -> Report:
    """Write the report with all finished models; nothing without any."""
    results = TypeAdapter(ModelResult)
    records = [path for target in targets if (path := record_path(folder / "stages", target)).is_file()]
    done = [results.validate_python(read_json(path)) for path in records]
    report = replace(report, models=done, notes=[*report.notes, *_zero_notes(done)], minutes=spent)
    if done:
        report.save(folder)
    return report


def _latency(loaded: Loaded, given: LatencyTable | None, folder: Path, track: Track) -> LatencyTable:
    """The latency table that was there before the run, or a new one; it is written to the folder."""
    path = folder / "latency.json"
    table = given
    if table is None:
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


def _zero_notes(models: list[ModelResult]) -> list[str]:
    """A note on models with zeros."""
    if not any(result.has_zeros for result in models):
        return []
    return [
        "Nothing was cut from models with zeros: their tensors have full size, and they are neither smaller nor faster. "
        "A sparsity that was asked for counts zeros as removed."
    ]


def _dense_score(loaded: Loaded, stages: Path) -> Score | None:
    """The metric of the dense model; ``None`` without labelled data."""
    if loaded.data.evaluation is None:
        return None
    path = stages / "dense.json"
    if path.is_file():
        return Score(**read_json(path))
    score = loaded.task.evaluate(loaded.dense, evaluation_data(loaded, loaded.dense), loaded.recipe.device)
    write_json(path, asdict(score))
    return score


def _describe(loaded: Loaded, table: LatencyTable, dense: Score | None, command: str | None) -> Report:
    """The report of this run, without models."""
    recipe = loaded.recipe
    notes = []
    if table.noise > NOISE_LIMIT:
        steadier = (
            "" if recipe.clock == "cpu" or recipe.device != "cpu" else "; --clock cpu --threads 1 gives steadier ones"
        )
        notes.append(f"Timings on this machine scattered by {100 * table.noise:.0f} %{steadier}.")
    if not measured_here(table, loaded.environment):
        notes.append(
            f"The latency table is of {place_of(table)}: the speed-ups measured here say nothing about that, and were not "
            "held to the targets."
        )
    if recipe.gradual:
        trained = "trained on the outputs of the dense model" if loaded.finetuning else "not trained"
        notes.append(
            f"Gradual: each model was pruned from the finished one before it, and {trained}. All figures compare with the "
            "dense model."
        )
    if loaded.task.inputs != "input_ids":
        notes.append(
            "The timed batches are images of the model's size; the sequence length of the environment is not used."
        )
    if recipe.keep:
        split = loaded.data.roles.choose.split
        notes.append(
            f"The speed-up of keep was chosen on texts of {split}: if the model was trained on them, it keeps less of others."
        )
    notes += [f"{note[0].upper()}{note[1:]}." for note in loaded.data.roles.notes]
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
        target_kind="keep" if recipe.keep else "sparsity" if recipe.sparsity else "speedup",
        notes=notes,
        higher_is_better=dense.higher_is_better if dense else True,
        auto_class=loaded.task.auto_class,
        pipeline_tag=loaded.task.pipeline_tag,
        texts=_texts(loaded),
    )


def _texts(loaded: Loaded) -> list[Texts]:
    """The texts of every role, and the training rows if the run trains."""
    texts = [
        Texts(name, USES[name], role.rows, role.tokens, role.split) for name, role in loaded.data.roles.by_name.items()
    ]
    if loaded.trains:
        train = loaded.data.train
        assert isinstance(train, Sized)
        what = "masks and weights are trained" if loaded.method.trains else "the shrunk model is trained"
        texts.append(Texts("train", what, len(train), None, loaded.data.roles.split))
    return texts
