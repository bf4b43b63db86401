"""``secateurs prune``: prune a model to the targets of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.cli.options import Quiet, Verbose
from secateurs.cli.recipe_options import recipe_values, with_recipe_options
from secateurs.distributed import count
from secateurs.errors import RecipeError
from secateurs.pipeline.check_recipe import check_recipe, check_table_exists
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import check_folder

__all__ = ["prune"]


@with_recipe_options
def prune(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pruned models and the report. Required, except with --dry-run.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe in YAML.")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Read model and data, print the stages with estimates of time and memory, and stop.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue the run in --out.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    **options: object,
) -> None:
    """Prune a model to one or more targets: measured speed-ups or sparsities."""
    from secateurs.cli.console import (
        command_line,
        configure_logging,
        console,
        print_data,
        print_report_path,
        progress_bars,
    )

    if out is None and (resume or not dry_run):
        raise RecipeError("--out is missing: name a folder for the models and the report")
    recipe = _recipe(recipe_values(options), config, out if resume else None)
    if count() == 1:  # several processes check together, after torch is imported, so that one of them prints the error
        check_recipe(recipe)
        if out is not None:
            check_folder(out, recipe, resume=resume)
        check_table_exists(recipe, out)
    configure_logging(verbose, quiet=quiet)
    if dry_run:
        from secateurs.pipeline.dry_run import dry_run_table

        console.print(dry_run_table(recipe, out, resume=resume))
        return
    assert out is not None
    from secateurs.pipeline.run import run
    from secateurs.pipeline.run_progress import RunProgress
    from secateurs.report.terminal import table

    progress = RunProgress()
    with progress_bars(progress) as track:
        report = run(
            recipe, out, resume=resume, track=track, command=command_line(), announce=print_data, progress=progress
        )
    console.print(table(report))
    print_report_path(out / "report.html")


def _recipe(given: Mapping[str, Any], config: Path | None, resumed: Path | None) -> Recipe:
    """Recipe of the run.

    Args:
        given: fields from options; they replace the fields of the file.
        config: recipe file, if one is given.
        resumed: folder of the run to continue, if any; its recipe is used unless ``config`` is given.
    """
    if config is not None:
        return Recipe.load(config, **given)
    if resumed is not None and (resumed / "recipe.yaml").is_file():
        return Recipe.load(resumed / "recipe.yaml", **given)
    if resumed is not None and not {"model", "task", "data"} <= given.keys():
        raise RecipeError(
            f"there is no run to resume in {resumed} (no recipe.yaml); leave out --resume, or name its folder"
        )
    return Recipe.of(dict(given))
