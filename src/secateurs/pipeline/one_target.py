"""One target, from the masks to the finished model folder.

    train gates -> settle the shapes (the contract) -> train while pruning -> apply -> shrink -> fine-tune -> evaluate -> save
    -> time the saved folder; a miss goes back to the contract

Steps that a method does not have do nothing.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from torch import nn

from secateurs.artifacts import read_json, write_json
from secateurs.distributed import first
from secateurs.latency.compare import Speed
from secateurs.methods.base import Finetuning
from secateurs.numerics.precision import native_bfloat16
from secateurs.pipeline.attempt import Attempt
from secateurs.pipeline.contract import STEERING_PROCESSES, Contract
from secateurs.pipeline.finished_model import FinishedModel
from secateurs.pipeline.given_table import measured_here
from secateurs.pipeline.keep_search import fastest_that_keeps
from secateurs.pipeline.run_plan import PROCESSES
from secateurs.pipeline.stage_timer import StageTimer
from secateurs.pipeline.target_context import TargetContext
from secateurs.pipeline.time_folder import time_shapes
from secateurs.pipeline.training_length import choose_mask_training, choose_recovery
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget, Keep, Speedup, Target
from secateurs.surgery.shared_copy import shrunk_copy
from secateurs.training.elastic import ElasticSteps
from secateurs.training.trainer import Training, train

__all__ = ["prune_to_target"]


def prune_to_target(shared: TargetContext, target: Target, seconds: dict[str, float]) -> None:
    """Prune, fine-tune, evaluate, save and time: one model folder and one record.

    A model whose saved folder misses its target in fresh processes is built again, smaller. For a quality to keep, the model
    is found first, and its measured speed-up is the answer.

    Args:
        shared: what all targets share.
        target: the target.
        seconds: stage -> seconds of the stages that all targets share.
    """
    timer, progress = StageTimer(shared.progress), shared.progress
    if isinstance(target, Keep):
        budget = first(lambda: fastest_that_keeps(shared, target))
        timer.end("find the speed-up")
    else:
        budget = shared.budget(target)
    place = shared.context.folder / target.folder
    if shared.loaded.method.trains:
        choose_mask_training(shared, target, budget, "train gates")
        shared.fitted.train_gates(budget)
        timer.end("train gates")
    contract = _contract(shared, target, budget, place)
    finished = None
    while finished is None or not contract.ended:
        if finished is not None:
            progress.again(str(target))
        attempt = contract.settle()
        timer.end("search")
        if finished is not None and attempt.confirmed is not None:
            break  # a miss, and no allocation is left to try
        mask, model = _build(shared, target, budget, attempt, timer, again=finished is not None)
        finished = FinishedModel(shared, target, model, shared.of_dense(mask))
        first(finished.evaluate_and_save)
        progress.tell_quality(str(target), finished.quality)
        timer.end("evaluate")
        if attempt.confirmed is None:
            measured = first(finished.time)
            progress.tell_measured(str(target), measured.speedups["pruned"].median)
            contract.confirm(attempt, measured)
            timer.end("time")
    progress.finish(str(target))
    first(lambda: finished.deliver(contract.attempts, {**seconds, **timer.seconds}))


def _build(
    shared: TargetContext, target: Target, budget: Budget, attempt: Attempt, timer: StageTimer, *, again: bool
) -> tuple[Mask, nn.Module]:
    """Fit, shrink and fine-tune the model of an attempt.

    Args:
        shared: what all targets share.
        target: the target.
        budget: the budget of the target.
        attempt: attempt that the contract settled on.
        timer: gets the seconds of every stage.
        again: a model of this target was built before, and missed it.

    Returns:
        The units that were kept, and the shrunk model.
    """
    loaded, fitted, context = shared.loaded, shared.fitted, shared.context
    place = context.folder / target.folder
    first(lambda: _start_over(place, attempt.number))
    if loaded.method.trains:
        choose_mask_training(shared, target, budget, "train while pruning", attempt.allocation)
        fitted.train_while_pruning(budget, attempt.allocation)
        timer.end("train while pruning")
    mask = fitted.apply(attempt.allocation, target.folder)
    model = shrunk_copy(context.model, context.structure, mask)
    timer.end("fit")
    how, elastic = choose_recovery(shared, target, model, mask, attempt.number, again=again)
    if how:
        _finetune(shared, model, mask, target, place, how, elastic)
        timer.end("recover")
    return mask, model


def _contract(shared: TargetContext, target: Target, budget: Budget, place: Path) -> Contract:
    """The speed-up contract of one target. A sparsity is kept by counting, and a quality was kept already: one attempt."""
    recipe = shared.loaded.recipe

    def steer(allocation: Allocation) -> Speed:
        began = time.perf_counter()
        speed = first(lambda: time_shapes(shared, allocation, place / "shapes"))
        if shared.time is not None:  # what processes take is the longest part after a training
            predicted = STEERING_PROCESSES * shared.time.process_seconds
            shared.progress.tell(PROCESSES, predicted, time.perf_counter() - began)
        shared.progress.tell_steering(str(target), speed.median, target.value)
        return speed

    return Contract(
        target if isinstance(target, Speedup) else None,
        budget,
        shared.table,
        shared.fitted,
        steer,
        place,
        tolerance=recipe.tolerance,
        processes=recipe.timing_processes,
        enforce=measured_here(shared.table, shared.loaded.environment),
    )


def _start_over(place: Path, attempt: int) -> None:
    """Delete what the training of another attempt left, and note whose training the folder holds from now on.

    Args:
        place: folder of the target.
        attempt: number of the attempt that is built now.
    """
    path = place / "building.json"
    if path.is_file() and read_json(path)["attempt"] != attempt:
        for entry in place.iterdir():
            if entry.name.startswith("attempt-") or entry == path:
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_json(path, {"attempt": attempt})


def _finetune(
    shared: TargetContext,
    model: nn.Module,
    mask: Mask,
    target: Target,
    place: Path,
    how: Finetuning,
    elastic: ElasticSteps | None,
) -> None:
    """Train the shrunk model in place, on the objective of its method."""
    loaded, recipe = shared.loaded, shared.loaded.recipe
    train(
        model,
        shared.fitted.finetune(shared.teacher, mask, target.folder),
        loaded.data.train,
        loaded.data.collate,
        Training(
            how.epochs,
            how.steps,
            how.learning_rate,
            batch_size=recipe.train_batch_size,
            accumulate=recipe.accumulate,
            bf16=native_bfloat16(recipe.device),
            trackers=recipe.trackers,
            logs=shared.context.logs(place / "recovery"),
            elastic=elastic,
        ),
        place / "recovery",
        seed=shared.context.seed,
        device=recipe.device,
        track=shared.context.track,
    )
