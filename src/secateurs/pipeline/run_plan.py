"""``plan_run``: tell the progress of a run which stages it has, and predict their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from secateurs.latency.table import LatencyTable
from secateurs.pipeline.contract import STEERING_PROCESSES
from secateurs.pipeline.counted_work import ATTEMPTS, PROCESS_SECONDS, CountedWork, count_work, table_seconds
from secateurs.pipeline.estimates import timed_pass
from secateurs.pipeline.given_table import measured_here
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.run_progress import PlannedStage, RunProgress
from secateurs.pipeline.target_context import record_path
from secateurs.structure.target import Keep, Speedup, Target

__all__ = ["PASSES", "PROCESSES", "Costs", "later_stages", "plan_run", "steers", "todo_of"]

PASSES, TABLE, PROCESSES = "forward passes", "latency table", "timing processes"
"""What the predictions of stages count."""

TRAINING = "training"
"""What the predictions of trainings count whose length ``minutes`` chooses: the seconds that were left for them."""

KEEP_TRIES = 6
"""Models that are built to find the speed-up at which a share of the quality is kept, usually."""

PARTS = {"prune": ("train gates", "search", "train while pruning", "fit")}
"""Stage -> its parts in the ``StageTimer``; the other stages have one part of their name."""


@dataclass(frozen=True)
class Costs:
    """What predictions are made of.

    Args:
        pass_seconds: seconds of one forward pass of one sequence through the dense model.
        process_seconds: seconds of one process that times saved models.
    """

    pass_seconds: float
    process_seconds: float = (PROCESS_SECONDS[0] * PROCESS_SECONDS[1]) ** 0.5


def plan_run(
    progress: RunProgress,
    loaded: Loaded,
    folder: Path,
    given: LatencyTable | None,
    *,
    resumed: bool,
    costs: Costs | None = None,
) -> Costs:
    """Plan the stages after model and data are loaded.

    Args:
        progress: gets the stages.
        loaded: everything that the recipe names.
        folder: the run folder.
        given: the latency table, if it is there already.
        resumed: whether an earlier run may have done a part of the work.
        costs: what predictions are made of; ``None`` = one batch is timed for it.

    Returns:
        What the predictions were made of.
    """
    stages_folder = folder / "stages"
    work = count_work(loaded)
    if costs is None:
        measured = timed_pass(loaded, 1)
        costs = Costs((measured.fastest * measured.slowest) ** 0.5)
    dense = 0.0 if (stages_folder / "dense.json").is_file() else work.evaluate_dense * costs.pass_seconds
    fastest, slowest = table_seconds(loaded.environment)
    table = 0.0 if given is not None else (fastest * slowest) ** 0.5
    stages = [
        PlannedStage("latency", ("latency",), table, TABLE),
        PlannedStage("evaluate dense", ("evaluate dense",), dense, PASSES),
    ]
    todo = todo_of(loaded.recipe.targets, stages_folder)
    progress.plan([*stages, *later_stages(loaded, todo, work, costs, steered=steers(loaded, given), resumed=resumed)])
    return costs


def todo_of(targets: Sequence[Target], stages: Path) -> list[Target]:
    """The targets that are not finished.

    Args:
        targets: targets of the run.
        stages: folder of the artifacts.
    """
    return [target for target in targets if not record_path(stages, target).is_file()]


def steers(loaded: Loaded, table: LatencyTable | None) -> bool:
    """Whether timings in this environment judge the latency table; ``None`` = it will be measured here."""
    return table is None or measured_here(table, loaded.environment)


def later_stages(
    loaded: Loaded, todo: Sequence[Target], work: CountedWork, costs: Costs, *, steered: bool, resumed: bool = False
) -> list[PlannedStage]:
    """The stages after the evaluation of the dense model. With ``minutes``, trainings take no time until it is chosen.

    Args:
        loaded: everything that the recipe names.
        todo: targets that are not finished.
        work: the counted work.
        costs: what predictions are made of.
        steered: whether shapes are timed.
        resumed: whether an earlier run may have done a part of the work.
    """
    stages: list[PlannedStage] = []
    prepare = PlannedStage("prepare", ("prepare",), work.prepare * costs.pass_seconds, PASSES)
    gradual = loaded.recipe.gradual
    if todo and not gradual:
        stages.append(replace(prepare, tells=not resumed))
    for target in todo:
        if gradual:
            stages.append(replace(prepare, target=str(target), tells=not resumed or target != todo[0]))
        first, *others = _stages_of_target(loaded, target, work, costs, steered=steered)
        stages += [replace(first, tells=not resumed or target != todo[0]), *others]
    return stages


def _stages_of_target(
    loaded: Loaded, target: Target, work: CountedWork, costs: Costs, *, steered: bool
) -> list[PlannedStage]:
    """The stages of one target, if its first model is fast enough."""
    attempts = (ATTEMPTS[0] * ATTEMPTS[1]) ** 0.5
    steering = STEERING_PROCESSES * attempts * costs.process_seconds if steered and isinstance(target, Speedup) else 0.0
    per_pass = costs.pass_seconds
    tries = KEEP_TRIES * (work.per_target + work.per_build + loaded.data.roles.choose.rows) * per_pass
    chosen_by_minutes = loaded.recipe.minutes is not None
    stages = {
        "find the speed-up": (tries, PASSES),
        "prune": (steering + (work.per_target + work.per_build) * per_pass, PASSES),
        "recover": (work.recover * per_pass, PASSES),
        "evaluate": (work.evaluate * per_pass, PASSES),
        "time": (loaded.recipe.timing_processes * costs.process_seconds, PROCESSES),
    }
    if chosen_by_minutes:
        stages["prune"] = (stages["prune"][0], "search and fit")  # its processes and passes are known apart
        stages["recover"] = (0.0, TRAINING)
        if loaded.method.trains:
            del stages["prune"]
            own = {
                "train gates": (0.0, TRAINING),
                "search": (steering, "search"),
                "train while pruning": (0.0, TRAINING),
            }
            stages = {**own, "fit": (0.0, PASSES), **stages}
    return [
        PlannedStage(name, PARTS.get(name, (name,)), seconds, unit, str(target))
        for name, (seconds, unit) in stages.items()
        if (name != "recover" or loaded.finetuning or (chosen_by_minutes and loaded.trains))
        and (name != "find the speed-up" or isinstance(target, Keep))
    ]
