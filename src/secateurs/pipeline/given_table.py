"""The latency table that a run finds: in its folder, or in the file that its recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from secateurs.artifacts import expanded
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
        path = expanded(recipe.latency_table)
    if path is None:
        return None
    table = LatencyTable.load(path)
    if recipe.elsewhere or measured_here(table, recipe.environment):
        return table
    here = _place(recipe.environment, machine())
    raise RecipeError(
        f"the latency table {path} is of {place_of(table)}, and speed-ups are measured on {here}; add "
        "--elsewhere to prune for the table's, where this run cannot measure"
        + _same_environment(table.environment, recipe.environment)
    )


def measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Whether the table was measured on this machine in this environment, so that timings here can judge it.

    Only what the device uses is compared: the processor and its threads for ``cpu``, the GPU for ``cuda``.
    """
    part = _part(environment)
    same = table.machine.get(part) == machine()[part]
    return same and _of_device(table.environment) == _of_device(environment)


def place_of(table: LatencyTable) -> str:
    """The environment and the machine of a table."""
    return _place(table.environment, table.machine)


def _place(environment: Environment, machine: Mapping[str, Any]) -> str:
    return f"{environment} on {machine.get(_part(environment)) or 'a machine without a name'}"


def _on_gpu(environment: Environment) -> bool:
    return environment.device.startswith("cuda")


def _part(environment: Environment) -> str:
    """The key of ``machine()`` for what executes the model."""
    return "gpu" if _on_gpu(environment) else "processor"


def _of_device(environment: Environment) -> Environment:
    """The environment without the threads of the processor, if a GPU executes the model."""
    return replace(environment, threads=0) if _on_gpu(environment) else environment


def _same_environment(table: Environment, recipe: Environment) -> str:
    """The options that give the recipe the environment of the table."""
    unused = {"threads"} if _on_gpu(table) else set[str]()
    unused |= {"sequence_length"} if table.generates else {"prompt_length", "new_tokens"}
    names = [field.name for field in fields(Environment) if field.name not in unused]
    differ = [name for name in names if getattr(table, name) != getattr(recipe, name)]
    options = " ".join(f"--{name.replace('_', '-')} {getattr(table, name)}" for name in differ)
    return f", or give its environment with {options}" if options else ""
