"""What a recipe names, read and checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateurs.clock import timer
from secateurs.environment import Environment
from secateurs.errors import RecipeError
from secateurs.job import Job, Method, Recovering, Track, silent
from secateurs.methods import method as find_method
from secateurs.recipe import Recipe
from secateurs.runtimes import runtime
from secateurs.structure import Structure
from secateurs.tasks import Batch, Columns, TaskData
from secateurs.tasks import task as find_task
from secateurs.trackers import check_trackers
from secateurs.workload import check

__all__ = ["Loaded", "load"]

HELD_OUT = 0.25
"""As many texts again, in proportion to the calibration samples, on which the reported divergence is taken."""


@dataclass(frozen=True)
class Loaded:
    """Everything a recipe names, in memory.

    Args:
        recipe: the recipe.
        task: found by its name, and bound to the model.
        method: with its hyper-parameters.
        dense: the dense model, float32, in evaluation mode.
        model: the same, as the method has rebuilt it: what it prunes.
        tokenizer: of the model.
        data: calibration, evaluation and training data.
        held_out: batches that no stage sees: the reported divergence is taken on them.
        structure: what the method may remove.
        environment: where the speed-up must hold.
        recovering: by the recipe, or else by the method.
    """

    recipe: Recipe
    task: Any
    method: Any
    dense: Any
    model: Any
    tokenizer: Any
    data: TaskData
    held_out: list[Batch]
    structure: Structure
    environment: Environment
    recovering: Recovering

    def job(self, folder: Path, track: Track = silent) -> Job:
        """What the method is given.

        Args:
            folder: for its artefacts.
            track: shows progress.
        """
        return Job(
            self.model,
            self.structure,
            self.data.calibration,
            self.task,
            folder,
            self.recipe.seed,
            torch.device(self.recipe.device),
            track,
            self.data.train,
            self.data.collate,
            self.recipe.train_batch_size,
            self.recipe.accumulate,
            self.recipe.trackers,
        )


def load(recipe: Recipe) -> Loaded:
    """Read model and data, and refuse what cannot work.

    Raises:
        SecateursError: whatever is missing or does not fit, in one line.
    """
    task = find_task(recipe.task.replace("-", "_"))
    method = find_method(recipe.method.replace("-", "_"), recipe.preset, **recipe.hyperparameters)
    if recipe.sparsity and not method.by_parameters:
        raise RecipeError(f"{recipe.method} prunes to a time: give it a speed-up, not a sparsity")
    if recipe.speedup and not method.by_time:
        raise RecipeError(
            f"{recipe.method} makes zeros, and no model faster: give it a sparsity, not a speed-up; "
            "agp removes whole components by the same schedule"
        )
    recovering = _recovering(recipe, method)
    if recipe.trackers:
        if not (recovering or method.trains):
            raise RecipeError(
                "trackers follow a training, and this run has none; add --recover-epochs, or leave them out"
            )
        check_trackers(recipe.trackers)
    environment = recipe.environment
    check(environment)
    timer(environment)
    runtime(environment.runtime)
    dense, tokenizer = task.load(
        recipe.model, dtype=torch.float32, device=recipe.device, trust_remote_code=recipe.trust_remote_code
    )
    check(environment, dense)
    model = method.rebuilt(dense)
    structure = method.structure(model)
    extra = max(1, round(recipe.calibration_samples * HELD_OUT))
    data = task.read(
        recipe.data,
        dense,
        tokenizer,
        columns=Columns(**recipe.columns.model_dump()),
        batch_size=recipe.batch_size,
        sequence_length=recipe.sequence_length,
        calibration_samples=recipe.calibration_samples + extra,
        seed=recipe.seed,
        evaluation_samples=recipe.evaluation_samples,
    )
    if (recovering or method.trains) and data.train is None:
        what = f"the method {recipe.method}" if method.trains else "recovery"
        raise RecipeError(
            f"{what} needs a training split, and {recipe.data} has none (rows: {data.description}); "
            f"give data with one, or use {'--method ziplm' if method.trains else '--recover-epochs 0'}"
        )
    batches, held_out = _split(data.calibration, HELD_OUT / (1 + HELD_OUT))
    data = replace(data, calibration=batches)
    loaded = Loaded(recipe, task, method, dense, model, tokenizer, data, held_out, structure, environment, recovering)
    method.check(loaded.job(Path()))
    return loaded


def _recovering(recipe: Recipe, method: Method) -> Recovering:
    """What the recipe leaves open is the method's."""
    own = method.recovering
    if recipe.recover_epochs is not None:
        own = replace(own, epochs=recipe.recover_epochs, steps=0)
    return own if recipe.learning_rate is None else replace(own, learning_rate=recipe.learning_rate)


def _split(batches: list[Batch], fraction: float) -> tuple[list[Batch], list[Batch]]:
    """The first batches to calibrate on, the last to report on; a single batch serves both."""
    held = min(len(batches) - 1, max(1, round(len(batches) * fraction)))
    return (batches[:-held], batches[-held:]) if held else (batches, batches)
