"""What is wrong with a recipe by itself: names, hyperparameters, targets and paths, all without importing torch.

The command line calls this first, so that a mistake is answered within a second. ``secateurs.pipeline.load`` checks what
needs the model or the data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.artifacts import expanded, is_path
from secateurs.errors import CheckpointError, DataError, RecipeError
from secateurs.latency.environment import GENERATION
from secateurs.methods import settings
from secateurs.pipeline.recipe import Recipe
from secateurs.tasks import check_name

if TYPE_CHECKING:
    from secateurs.methods._settings import Finetuning

__all__ = ["check_recipe", "check_table_exists", "finetuning", "method_settings"]


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that cannot work with any model and data.

    Raises:
        SecateursError: one line that says what is wrong.
    """
    check_name(recipe.task.replace("-", "_"))
    method = method_settings(recipe)
    if recipe.sparsity and not method.by_parameters:
        raise RecipeError(f"{recipe.method} prunes to a time: give it a speed-up, not a sparsity")
    if recipe.speedup and not method.by_time:
        raise RecipeError(
            f"{recipe.method} makes zeros, and no model faster: give it a sparsity, not a speed-up; "
            "agp removes whole components by the same schedule"
        )
    if recipe.keep and (method.trains or finetuning(recipe, method)):
        what = f"{recipe.method} trains" if method.trains else "--recover-epochs trains"
        raise RecipeError(
            f"keep tries several speed-ups, and {what} for every one of them, which takes hours: use ziplm, uniform, "
            "magnitude or random-units without recovery, or give a speed-up"
        )
    if recipe.minutes is not None:
        check_minutes(recipe)
    if recipe.recover_epochs and recipe.recover_steps:
        raise RecipeError(
            "recover_epochs and recover_steps both say how long to train after shrinking: give one of them"
        )
    if recipe.gradual:
        check_gradual(recipe, method)
    if recipe.trackers and not (finetuning(recipe, method) or method.trains or recipe.minutes):
        raise RecipeError("trackers follow a training, and this run has none; add --recover-epochs, or leave them out")
    if recipe.regime == GENERATION and recipe.task.replace("-", "_") != "causal_lm":
        raise RecipeError(
            f"the regime generation times decoders, whose task is causal-lm, not {recipe.task}: use the regime throughput"
        )
    if recipe.clock == "cpu" and recipe.threads > 1:
        raise RecipeError(f"the cpu clock counts the time of 1 thread, not of {recipe.threads}; use --threads 1")
    if is_path(recipe.model) and not expanded(recipe.model).exists():
        raise CheckpointError(
            f"the model folder {recipe.model} does not exist; give a folder or a hub id like owner/name"
        )
    folder = recipe.data.rpartition(":")[0] or recipe.data  # folder:config
    if is_path(recipe.data) and not any(expanded(path).exists() for path in (recipe.data, folder)):
        raise DataError(f"the data {recipe.data} does not exist; give a folder, a file or a hub id like owner/name")


def check_minutes(recipe: Recipe) -> None:
    """Refuse fields that minutes chooses, or whose time nothing can adapt.

    Raises:
        RecipeError: see above.
    """
    for name in ("recover_epochs", "recover_steps"):
        if getattr(recipe, name) is not None:
            raise RecipeError(f"minutes chooses the epochs after shrinking: give minutes or {name}, not both")
    if recipe.keep:
        raise RecipeError(
            "keep tries as many models as it needs and trains none of them, so that nothing can fit it into minutes: give "
            "minutes with a speed-up or a sparsity, or keep with fewer calibration_samples"
        )


def check_gradual(recipe: Recipe, method: Any) -> None:
    """Refuse what cannot go from model to model, and steps without the training that makes up for the cuts.

    Args:
        recipe: the recipe.
        method: the method, or its settings.

    Raises:
        RecipeError: see above.
    """
    if method.trains:
        raise RecipeError(
            f"gradual prunes one-shot, from model to model, and {recipe.method} trains its masks instead: use ziplm, "
            "uniform, magnitude or random-units"
        )
    if recipe.keep:
        raise RecipeError("keep tries its speed-ups on the dense model, one-shot: give gradual with speed-ups instead")
    if recipe.minutes is not None:
        raise RecipeError(
            "minutes plans one preparation for all targets, and gradual prepares each anew: give gradual with recover_epochs "
            "or recover_steps instead"
        )
    if recipe.recover_epochs is None and not finetuning(recipe, method):
        raise RecipeError(
            "gradual trains each model before it is pruned further: say for how long, with --recover-epochs 1 or "
            "--recover-steps 500 (--recover-epochs 0 prunes on without training)"
        )


def check_table_exists(recipe: Recipe, folder: Path | None) -> None:
    """Refuse a latency table that is not there, unless the folder of the run has a copy.

    Args:
        recipe: the recipe.
        folder: folder of the run, if it is known.

    Raises:
        CheckpointError: there is no such file.
    """
    if folder is not None and (folder / "latency.json").is_file():
        return
    if recipe.latency_table and not expanded(recipe.latency_table).exists():
        raise CheckpointError(
            f"no latency table at {recipe.latency_table}; write one with `secateurs measure MODEL --table FILE`"
        )


def method_settings(recipe: Recipe) -> Any:
    """Hyperparameters of the method; see ``secateurs.methods.settings``."""
    return settings(recipe.method.replace("-", "_"), recipe.preset, **recipe.hyperparameters)


def finetuning(recipe: Recipe, method: Any) -> Finetuning:
    """The training after shrinking: by the recipe, or else by the method.

    Args:
        recipe: the recipe.
        method: the method, or its settings.
    """
    own: Finetuning = method.finetuning_length
    if recipe.recover_steps:
        own = replace(own, epochs=0.0, steps=recipe.recover_steps)
    elif recipe.recover_epochs is not None:
        own = replace(own, epochs=recipe.recover_epochs, steps=0)
    return own if recipe.learning_rate is None else replace(own, learning_rate=recipe.learning_rate)
