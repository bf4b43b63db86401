"""The folder of a run: a new one, that of a run which never began, or that of the same recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

from secateurs.artifacts import write
from secateurs.errors import RecipeError
from secateurs.pipeline.recipe import Recipe

__all__ = ["check_folder", "claim_folder"]

BEFORE_THE_WORK = {"recipe.yaml", "latency.json"}
"""What a run leaves behind that was refused before its work began (an unreachable target)."""


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
    earlier = Recipe.load(folder / "recipe.yaml")
    changed = [name for name in Recipe.model_fields if getattr(earlier, name) != getattr(recipe, name)]
    if changed:
        raise RecipeError(
            f"{folder} holds a run of another recipe ({', '.join(changed)} differ); resume with the same one"
        )


def claim_folder(folder: Path, recipe: Recipe) -> None:
    """Write the recipe into a folder that passed the check; what a killed run left half-written goes.

    Raises:
        CheckpointError: it cannot be written.
    """
    saved = folder / "recipe.yaml"
    if folder.is_dir():
        for path in folder.iterdir():
            if _half_written(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if _never_began(_held(folder)) and Recipe.load(saved) != recipe:
            table = folder / "latency.json"  # perhaps of another model or environment
            if not recipe.latency_table or Path(recipe.latency_table).resolve() != table.resolve():
                table.unlink(missing_ok=True)
            saved.unlink()
    if not saved.is_file():
        write(saved, lambda partial: partial.write_text(recipe.to_yaml()))


def _never_began(held: set[str]) -> bool:
    """A recipe is there, and nothing but what comes before the work."""
    return "recipe.yaml" in held and held <= BEFORE_THE_WORK


def _held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not _half_written(path)} if folder.is_dir() else set()


def _half_written(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix in (".partial", ".older")
