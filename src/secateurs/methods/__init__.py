"""Methods: a file or a folder each, which has the method's name; baselines are files of ``baselines``.

A new method is one new file here. Its module has ``METHOD``, a frozen dataclass of hyper-parameters that is a
``secateurs.methods.base.Method``, and may have ``PRESETS``, named sets of values for them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secateurs.errors import RecipeError
from secateurs.methods.base import Method

__all__ = ["method", "names"]

NOT_METHODS = {"base", "baselines"}
"""Files and folders beside this file that are no methods."""


def names() -> list[str]:
    """Names of all methods. No method is imported."""
    return sorted(_modules())


def method(name: str, preset: str = "default", **hyperparameters: Any) -> Method:
    """A method by its name.

    Args:
        name: name of the method, with underscores.
        preset: ``"default"``, or a preset of the method (``"paper"``).
        hyperparameters: values that replace those of the preset.

    Raises:
        RecipeError: there is no such method, preset or hyper-parameter, or a value is not allowed.
    """
    modules = _modules()
    if name not in modules:
        raise RecipeError(f"there is no method {name!r}; the methods are {', '.join(sorted(modules))}")
    module = importlib.import_module(modules[name])
    cls = module.METHOD
    presets: dict[str, dict[str, Any]] = {"default": {}, **getattr(module, "PRESETS", {})}
    if preset not in presets:
        raise RecipeError(f"the method {name} has no preset {preset!r}; it has {', '.join(presets)}")
    known = [field.name for field in fields(cls)]
    wrong = sorted(set(hyperparameters) - set(known))
    if wrong:
        raise RecipeError(f"the method {name} has no hyper-parameter {wrong[0]!r}; it has {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(cls).validate_python({**presets[preset], **hyperparameters})
    except ValidationError as error:
        raise RecipeError(f"{name}: {_explained(error)}") from None


def _explained(error: ValidationError) -> str:
    """The first problem in words: the field, what is wrong with it, and the value that was given."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {message[0].lower()}{message[1:]} (given: {problem['input']!r})" if field else message


def _modules() -> dict[str, str]:
    """Method name -> module that defines it."""
    found = {}
    for package in (__name__, f"{__name__}.baselines"):
        folder = Path(__file__).parent / package.removeprefix(__name__).removeprefix(".")
        for module in pkgutil.iter_modules([str(folder)]):
            if module.name not in NOT_METHODS and not module.name.startswith("_"):
                found[module.name] = f"{package}.{module.name}"
    return found
