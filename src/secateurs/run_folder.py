"""The folder of a run: a new one, or that of the same recipe."""

from __future__ import annotations

from pathlib import Path

from secateurs.artefact import write
from secateurs.errors import RecipeError
from secateurs.recipe import Recipe

__all__ = ["open_folder"]


def open_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the folder and write the recipe into it, or check that it holds a run of this very recipe.

    Raises:
        RecipeError: the folder is in use, or holds something else.
        CheckpointError: it cannot be written.
    """
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
    write(saved, lambda partial: partial.write_text(recipe.to_yaml()))
