"""What a method decided in the recipe of a run folder; another method or preset must decide it anew.

``secateurs.pipeline.run_folder.resolved`` writes these values into ``recipe.yaml``. This module does not import ``Recipe``,
which uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from secateurs.methods import settings

__all__ = ["without_method_values"]


def without_method_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe file, without those that its method decided if ``changes`` has another method or preset.

    Only a file with all hyperparameters of its method is changed; a user gave every value of any other file. The training
    after shrinking is left out only where it is what the method decides: another value came from the user.

    Args:
        values: field name -> value in the file.
        changes: fields that will replace those of the file.

    Raises:
        RecipeError: the file names a method that does not exist.
    """
    before = {"method": values.get("method", "ziplm"), "preset": values.get("preset", "default")}
    if all(_dashed(changes.get(name, value)) == _dashed(value) for name, value in before.items()):
        return dict(values)
    known = settings(str(before["method"]).replace("-", "_"))
    given = values.get("hyperparameters")
    if not isinstance(given, dict) or not {field.name for field in fields(known)} <= given.keys():
        return dict(values)
    training = known.finetuning_length
    decided = {"recover_epochs": training.epochs, "learning_rate": training.learning_rate}
    if "recover_steps" in values:  # earlier versions did not write it
        decided["recover_steps"] = training.steps
    if values.get("minutes") is not None:  # which decides epochs and steps
        decided = {"learning_rate": training.learning_rate}
    if not known.trains and all(values.get(name) is not None for name in decided):
        dropped = {"hyperparameters", *(name for name, value in decided.items() if values[name] == value)}
    else:
        dropped = {"hyperparameters"}
    return {name: value for name, value in values.items() if name not in dropped}


def _dashed(name: object) -> str:
    return str(name).replace("_", "-")
