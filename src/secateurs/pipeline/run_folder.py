"""The folder of a run: a new one, that of a run which never began, or that of the same recipe."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from secateurs.artifacts import OLDER, expanded, read_json, restore_older, write, write_json
from secateurs.distributed import count
from secateurs.errors import RecipeError
from secateurs.pipeline.check_recipe import finetuning, method_settings
from secateurs.pipeline.recipe import Recipe

__all__ = ["check_folder", "claim_folder", "own_table", "record_processes", "resolved"]

BEFORE_THE_WORK = {"recipe.yaml", "latency.json"}
"""What a run leaves behind that was refused before its work began (an unreachable target)."""

PROCESSES = Path("stages", "processes.json")
"""Number of processes of a run that trains: it decides which rows make a step."""

PERMISSIONS = ("elsewhere",)
"""Fields of a recipe that may differ when a run is resumed: they change no result."""

TARGETS = ("keep", "speedup")
"""Fields of targets that may have other values of their kind when a run is resumed: all shares to keep come from the same
tries, and the speed-ups of a gradual run from the models that are finished."""

PATHS = ("model", "data", "latency_table")
"""Fields of a recipe that may hold a path."""

PATHS_OF_METHODS = ("start",)
"""Hyperparameters that may hold a path, if they are texts."""


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """Refuse a folder that this run must not write to. Nothing is changed.

    Raises:
        RecipeError: the folder is in use, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a folder for the results")
    held = _held(folder)
    if not held or _never_began(held):
        return
    if not resume:
        raise RecipeError(f"{folder} is not empty; name another folder, or add --resume to go on with the run in it")
    if "recipe.yaml" not in held:
        raise RecipeError(f"{folder} holds no run (no recipe.yaml); name the folder of the run to resume")
    earlier, now = resolved(Recipe.load(folder / "recipe.yaml")), resolved(recipe)
    fixed = [name for name in Recipe.model_fields if name not in PERMISSIONS]
    if earlier.keep and now.keep:
        fixed.remove("keep")
    if earlier.gradual and now.gradual and earlier.speedup and now.speedup:
        fixed.remove("speedup")
    changed = [name for name in fixed if getattr(earlier, name) != getattr(now, name)]
    if changed:
        raise RecipeError(
            f"{folder} holds a run of another recipe ({', '.join(changed)} differ); resume with the same one"
        )
    if (folder / PROCESSES).is_file() and (processes := read_json(folder / PROCESSES)) != count():
        raise RecipeError(
            f"{folder} holds a run of {processes} processes, and this one has {count()}: its training would go on with other "
            f"batches; resume it with {processes}"
        )


def claim_folder(folder: Path, recipe: Recipe) -> None:
    """Write the recipe into a folder that passed the check; what a killed run left half-written goes.

    Raises:
        CheckpointError: it cannot be written.
    """
    saved = folder / "recipe.yaml"
    if folder.is_dir():
        for path in [path for path in folder.iterdir() if path.suffix == OLDER and _half_written(path)]:
            restore_older(folder / path.name.removeprefix(".").rsplit(".", 2)[0])
        for path in [*folder.iterdir()]:
            if _half_written(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if _never_began(_held(folder)) and not _same_recipe(folder, recipe):
            table = folder / "latency.json"  # perhaps of another model or environment
            if not recipe.latency_table or expanded(recipe.latency_table).resolve() != table.resolve():
                table.unlink(missing_ok=True)
            saved.unlink()
    if not saved.is_file() or any(getattr(Recipe.load(saved), name) != getattr(recipe, name) for name in TARGETS):
        write(saved, lambda partial: partial.write_text(resolved(recipe).to_yaml(defaults=True)))


def own_table(folder: Path, recipe: Recipe) -> Path | None:
    """The latency table in the folder of this run; ``None`` if it has none, or that of a run that never began."""
    table = folder / "latency.json"
    if not table.is_file() or (_never_began(_held(folder)) and not _same_recipe(folder, recipe)):
        return None
    return table


def record_processes(folder: Path) -> None:
    """Note the number of processes in the folder of a run that trains, unless it is there."""
    if not (folder / PROCESSES).is_file():
        write_json(folder / PROCESSES, count())


def resolved(recipe: Recipe) -> Recipe:
    """The same recipe with all hyperparameters of its method, the training after shrinking, and absolute paths.

    It means the same in any folder, and after a default or a preset has changed. A method that trains has the training
    after shrinking among its hyperparameters.

    Raises:
        RecipeError: there is no such method, preset or hyperparameter.
    """
    method = method_settings(recipe)
    hyperparameters = {field.name: getattr(method, field.name) for field in fields(method)}
    for name in PATHS_OF_METHODS:
        if isinstance(hyperparameters.get(name), str):
            hyperparameters[name] = _absolute(hyperparameters[name])
    changes: dict[str, Any] = {name: _absolute(getattr(recipe, name)) for name in PATHS}
    if not method.trains:
        training = finetuning(recipe, method)
        changes["learning_rate"] = training.learning_rate
        if recipe.minutes is None:  # which chooses the epochs itself
            changes |= {"recover_epochs": training.epochs, "recover_steps": training.steps}
    return recipe.model_copy(update={**changes, "hyperparameters": hyperparameters})


def _absolute(source: str | None) -> str | None:
    """An existing local path from the root, with its config (``folder:config``) if it has one; the rest as it is."""
    if not source:
        return source
    folder, colon, config = source.rpartition(":")
    if not expanded(source).exists():
        return f"{_absolute(folder)}{colon}{config}" if folder else source
    return os.path.abspath(expanded(source))


def _never_began(held: set[str]) -> bool:
    """A recipe is there, and nothing but what comes before the work."""
    return "recipe.yaml" in held and held <= BEFORE_THE_WORK


def _same_recipe(folder: Path, recipe: Recipe) -> bool:
    return resolved(Recipe.load(folder / "recipe.yaml")) == resolved(recipe)


def _held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not _half_written(path)} if folder.is_dir() else set()


def _half_written(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix in (".partial", OLDER)
