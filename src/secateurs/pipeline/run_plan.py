"""``plan_run``: tell the progress of a run which stages it has, and predict their time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from secateurs.latency.table import LatencyTable
from secateurs.pipeline.contract import STEERING_PROCESSES
from secateurs.pipeline.counted_work import ATTEMPTS, PROCESS_SECONDS, TABLE_SECONDS, CountedWork, count_work
from secateurs.pipeline.estimates import timed_pass
from secateurs.pipeline.given_table import measured_here
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.run_progress import PlannedStage, RunProgress
from secateurs.pipeline.target_context import record_path
from secateurs.structure.target import Keep, Speedup, Target

__all__ = ["plan_run"]

PASSES, TABLE, PROCESSES = "forward passes", "latency table", "timing processes"
"""What the predictions of stages count."""

KEEP_TRIES = 6
"""Models that are built to find the speed-up at which a share of the quality is kept, usually."""

PARTS = {"prune": ("train gates", "search", "train while pruning", "fit")}
"""Stage -> its parts in the ``StageTimer``; the other stages have one part of their name."""


def plan_run(progress: RunProgress, loaded: Loaded, folder: Path, given: LatencyTable | None, *, resumed: bool) -> None:
    """Plan the stages after model and data are loaded. One batch is timed for it.

    Args:
        progress: gets the stages.
        loaded: everything that the recipe names.
        folder: the run folder.
        given: the latency table, if it is there already.
        resumed: whether an earlier run may have done a part of the work.
    """
    stages_folder = folder / "stages"
    work, measured = count_work(loaded), timed_pass(loaded, 1)
    seconds = (measured.fastest * measured.slowest) ** 0.5
    dense = 0.0 if (stages_folder / "dense.json").is_file() else work.evaluate_dense * seconds
    stages = [
        PlannedStage("latency", ("latency",), 0.0 if given is not None else _middle(TABLE_SECONDS), TABLE),
        PlannedStage("evaluate dense", ("evaluate dense",), dense, PASSES),
    ]
    todo = [target for target in loaded.recipe.targets if not record_path(stages_folder, target).is_file()]
    if todo:
        stages.append(PlannedStage("prepare", ("prepare",), work.prepare * seconds, PASSES, tells=not resumed))
    steers = given is None or measured_here(given, loaded.environment)
    for target in todo:
        first, *others = _stages_of_target(loaded, target, work, seconds, steers=steers)
        stages += [replace(first, tells=not resumed or target != todo[0]), *others]
    progress.plan(stages)


def _stages_of_target(
    loaded: Loaded, target: Target, work: CountedWork, pass_seconds: float, *, steers: bool
) -> list[PlannedStage]:
    """The stages of one target, if its first model is fast enough."""
    process = _middle(PROCESS_SECONDS)
    steering = STEERING_PROCESSES * _middle(ATTEMPTS) * process if steers and isinstance(target, Speedup) else 0.0
    tries = KEEP_TRIES * (work.per_target + work.per_build + loaded.data.roles.choose.rows) * pass_seconds
    stages = {
        "find the speed-up": (tries, PASSES),
        "prune": (steering + (work.per_target + work.per_build) * pass_seconds, PASSES),
        "recover": (work.recover * pass_seconds, PASSES),
        "evaluate": (work.evaluate * pass_seconds, PASSES),
        "time": (loaded.recipe.timing_processes * process, PROCESSES),
    }
    return [
        PlannedStage(name, PARTS.get(name, (name,)), seconds, unit, str(target))
        for name, (seconds, unit) in stages.items()
        if (name != "recover" or loaded.finetuning) and (name != "find the speed-up" or isinstance(target, Keep))
    ]


def _middle(bounds: tuple[float, float]) -> float:
    """The geometric mean of both ends of a range."""
    return (bounds[0] * bounds[1]) ** 0.5
