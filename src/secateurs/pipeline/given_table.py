"""The latency table that a run finds: in its folder, or in the file that its recipe names."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment, machine
from secateurs.latency.table import LatencyTable
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import own_table

__all__ = ["given_table", "measured_here", "place_of"]


def given_table(recipe: Recipe, folder: Path | None) -> LatencyTable | None:
    """Read the table of the run folder, or else the one that the recipe names.

    Args:
        recipe: the recipe.
        folder: the run folder, if it is known.

    Returns:
        The table, or ``None`` if it has to be measured.

    Raises:
        CheckpointError: the table cannot be read.
        RecipeError: it is of another environment than the recipe's or of another machine, and ``elsewhere`` is not set.
    """
    path = own_table(folder, recipe) if folder is not None else None
    if path is None and recipe.latency_table:
        path = Path(recipe.latency_table)
    if path is None:
        return None
    table = LatencyTable.load(path)
    if recipe.elsewhere or measured_here(table, recipe.environment):
        return table
    raise RecipeError(
        f"the latency table {path} is of {place_of(table)}, and speed-ups are measured on {_here(recipe.environment)}; add "
        "--elsewhere to prune for the table's, where this run cannot measure"
        + _same_environment(table.environment, recipe.environment)
    )


def measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Whether the table was measured on this machine in this environment, so that timings here can judge it."""
    here = machine()
    same = all(table.machine.get(part) == here[part] for part in ("processor", "gpu"))
    return same and table.environment == environment


def place_of(table: LatencyTable) -> str:
    """The environment and the machine of a table."""
    return _place(table.environment, table.machine.get("processor"), table.machine.get("gpu"))


def _here(environment: Environment) -> str:
    here = machine()
    return _place(environment, here["processor"], here["gpu"])


def _place(environment: Environment, processor: str | None, gpu: str | None) -> str:
    name = gpu if environment.device.startswith("cuda") else processor
    return f"{environment} on {name or 'a machine without a name'}"


def _same_environment(table: Environment, recipe: Environment) -> str:
    """The options that give the recipe the environment of the table."""
    differ = [field.name for field in fields(Environment) if getattr(table, field.name) != getattr(recipe, field.name)]
    options = " ".join(f"--{name.replace('_', '-')} {getattr(table, name)}" for name in differ)
    return f", or give its environment with {options}" if options else ""
