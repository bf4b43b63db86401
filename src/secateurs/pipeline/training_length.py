"""How long to train in a run with ``minutes``: the masks of a method that trains, and the shrunk model.

A few steps of the training itself are timed on copies, and as many steps are chosen as fit into what is left
(``secateurs.pipeline.time_budget``). Lengths in the recipe or of the method are the most that is used.
"""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateurs.distributed import count, first
from secateurs.methods._lengths import rehearsed, rows_of_training, scaled
from secateurs.methods.base import Finetuning
from secateurs.numerics.precision import native_bfloat16
from secateurs.pipeline.counted_work import PASSES_OF_TRAINING, count_work
from secateurs.pipeline.rehearsal import Pace, rehearse
from secateurs.pipeline.target_context import TargetContext
from secateurs.pipeline.time_budget import TimeBudget
from secateurs.progress import silent
from secateurs.report.minutes import TrainingLength
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget, Target
from secateurs.training.elastic import ElasticSteps
from secateurs.training.trainer import Training, train

__all__ = ["LEAST_STEPS", "MOST_EPOCHS", "SHORTEST_MASKS", "choose_mask_training", "choose_recovery"]

logger = logging.getLogger(__name__)

MOST_EPOCHS = 20
"""Epochs after shrinking, at most, where the method names no length; CoFi's authors train for as many."""

LEAST_STEPS = 50
"""Steps after shrinking below which there is no training: the learning rate alone takes some to rise and fall."""

SHORTEST_MASKS = 100
"""Steps in which masks are learned, at least: in fewer, gates cannot close."""

REHEARSED_SHARE = 0.05
"""Share of the time of a training that its rehearsal takes, about."""


def choose_recovery(
    shared: TargetContext, target: Target, model: nn.Module, mask: Mask, number: int, *, again: bool
) -> tuple[Finetuning, ElasticSteps | None]:
    """Length of the training after shrinking. Without ``minutes`` it is that of the recipe or the method.

    With ``minutes``, its number of steps is also corrected while it runs, in a run of one process.

    Args:
        shared: what all targets share.
        target: the target.
        model: the shrunk model; copies of it are trained.
        mask: the kept units.
        number: number of the attempt.
        again: a model of this target was built before, and missed it.
    """
    loaded, own, time = shared.loaded, shared.loaded.finetuning, shared.time
    if time is None or not loaded.trains:
        return own, None
    name = f"{target.folder}/attempt-{number}/recover"
    known = first(lambda: time.trainings.get(name))
    if known is None:
        length = _recovery(shared, time, target, model, mask, again=again)
        known = first(lambda: time.choose(name, length))
    chosen = replace(own, epochs=0.0, steps=known.steps)
    if not known.steps or count() > 1:
        return chosen, None
    most = min(_most_steps(shared), 4 * time.ends[name][0][1])
    return chosen, ElasticSteps(time.ends[name], most, known.seconds, lambda ends: time.correct(name, ends))


def _recovery(
    shared: TargetContext, time: TimeBudget, target: Target, model: nn.Module, mask: Mask, *, again: bool
) -> TrainingLength:
    loaded, own = shared.loaded, shared.loaded.finetuning
    rows, batch = _rows(shared), shared.context.rows_a_step
    most = _most_steps(shared)
    least = min(most, LEAST_STEPS)
    steps, share = 0, first(lambda: time.share(again=again))
    expected = first(lambda: least * batch * PASSES_OF_TRAINING * time.pass_seconds)
    if own or share > expected:  # the training of a method is needed, however short it is

        def few_steps(data: Any, collate: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                train(
                    copy.deepcopy(model),
                    shared.fitted.finetune(shared.teacher, mask, target.folder),
                    data,
                    collate,
                    Training(
                        0.0,
                        most + 1000,
                        own.learning_rate,
                        batch_size=loaded.recipe.train_batch_size,
                        accumulate=loaded.recipe.accumulate,
                        bf16=native_bfloat16(loaded.recipe.device),
                        checkpoint_steps=0,
                    ),
                    Path(folder),
                    seed=loaded.recipe.seed,
                    device=loaded.recipe.device,
                )

        pace = _rehearse(shared, few_steps, share)
        share = first(lambda: time.share(again=again))
        steps = min(most, int((share - pace.start) / pace.step))
        steps = max(steps, least) if own else steps if steps >= least else 0
        share = pace.start + steps * pace.step if steps else 0.0
        logger.info("%s: %d steps of %.3f s after %.1f s", target, steps, pace.step, pace.start)
    return TrainingLength(str(target), "recover", steps, steps * batch / rows, max(0.0, share), steps == most)


def choose_mask_training(
    shared: TargetContext, target: Target, budget: Budget, stage: str, allocation: Allocation | None = None
) -> None:
    """Set the length of the training of masks of a method, if this stage trains any. Without ``minutes`` it stays.

    Args:
        shared: what all targets share.
        target: the target.
        budget: the budget of the target.
        stage: ``"train gates"`` or ``"train while pruning"``.
        allocation: kept units of every group, of the second stage.
    """
    loaded, time = shared.loaded, shared.time
    work = count_work(loaded)
    passes = work.per_target if stage == "train gates" else work.per_build
    if time is None or not passes:
        return
    name = f"{target.folder}/{stage}"
    factor = first(lambda: time.factors.get(name))
    if factor is None:
        method: Any = loaded.method
        rows, batch = _rows(shared), shared.context.rows_a_step
        steps = rows_of_training(method, rows, batch) / batch
        pace = _rehearse(shared, lambda *given: _few_mask_steps(shared, budget, allocation, *given), first(time.share))
        share = first(time.share) * passes / (passes + work.recover)
        factor = min(1.0, max((share - pace.start) / pace.step / steps, SHORTEST_MASKS / steps))
        done = math.ceil(steps * factor)
        logger.info("%s: %d of %.0f steps of %.3f s for the masks", target, done, steps, pace.step)
        seconds = pace.start + done * pace.step
        length = TrainingLength(str(target), stage, done, done * batch / rows, seconds, factor == 1)
        first(partial(time.choose, name, length, factor))
    shared.fitted.set_lengths(scaled(loaded.method, factor))


def _few_mask_steps(
    shared: TargetContext, budget: Budget, allocation: Allocation | None, data: Any, collate: Any
) -> None:
    """Begin the training of masks on a copy of the model."""
    loaded = shared.loaded
    with tempfile.TemporaryDirectory() as folder:
        context = replace(
            shared.context,
            model=copy.deepcopy(loaded.model),
            fit=shared.context.fit[:1],
            train=data,
            collate=collate,
            folder=Path(folder, "stages"),
            trackers=(),
            track=silent,
        )
        method: Any = rehearsed(loaded.method)
        fitted = method.fit(context)
        if allocation is None:
            fitted.train_gates(budget)
        else:
            fitted.train_while_pruning(budget, allocation)


def _rehearse(shared: TargetContext, begin: Callable[[Any, Any], None], share: float) -> Pace:
    """The pace of a training, in the first process."""
    recipe, data = shared.loaded.recipe, shared.loaded.data
    limit = max(2.0, REHEARSED_SHARE * share) if count() == 1 else math.inf  # all processes take the same steps
    pace = rehearse(
        begin,
        data.train,
        data.collate,
        batch_size=recipe.train_batch_size,
        accumulate=recipe.accumulate,
        sorts=shared.loaded.task.inputs == "input_ids",
        seed=recipe.seed,
        seconds=limit,
    )
    return first(lambda: pace)


def _most_steps(shared: TargetContext) -> int:
    """Steps after shrinking, at most."""
    own = shared.loaded.finetuning
    return own.steps or math.ceil((own.epochs or MOST_EPOCHS) * _rows(shared) / shared.context.rows_a_step)


def _rows(shared: TargetContext) -> int:
    data: Any = shared.loaded.data.train
    return len(data)
