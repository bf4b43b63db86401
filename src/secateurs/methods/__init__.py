"""Methods: a file or a folder each, which has the method's name; baselines are files of ``baselines``.

A new method is one new file here. Its module has ``METHOD``, a frozen dataclass of hyper-parameters that is a
``secateurs.methods.base.Method``, and may have ``PRESETS``, named sets of values for them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from secateurs.errors import RecipeError

if TYPE_CHECKING:
    from secateurs.methods.base import Method

__all__ = ["method", "names", "settings"]

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
    module = importlib.import_module(_module_of(name))
    return _validated(module.METHOD, getattr(module, "PRESETS", {}), name, preset, hyperparameters)


def settings(name: str, preset: str = "default", **hyperparameters: Any) -> Any:
    """The hyper-parameters of a method, checked, without its steps. Torch is not imported, if the method is one of ours.

    Args:
        name: see ``method``.
        preset: see ``method``.
        hyperparameters: see ``method``.

    Returns:
        The base class of the method with its fields, ``trains``, ``by_parameters``, ``by_time`` and ``finetuning_length``;
        the method itself if it has no file of settings.

    Raises:
        RecipeError: see ``method``.
    """
    module = _module_of(name)
    folder = Path(__file__).parent / name
    if (folder / "settings.py").is_file():
        own = importlib.import_module(f"{module}.settings")
        return _validated(own.SETTINGS, own.PRESETS, name, preset, hyperparameters)
    if module.startswith(f"{__name__}.baselines."):
        baselines = importlib.import_module(f"{__name__}.baselines._settings")
        if name in baselines.SETTINGS:
            presets = baselines.PRESETS.get(name, {})
            return _validated(baselines.SETTINGS[name], presets, name, preset, hyperparameters)
    return method(name, preset, **hyperparameters)


def _validated(
    cls: Any, presets: dict[str, dict[str, Any]], name: str, preset: str, hyperparameters: dict[str, Any]
) -> Any:
    """An instance of the class of a method, or of its settings."""
    presets, name = {"default": {}, **presets}, _dashed(name)
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


def _module_of(name: str) -> str:
    """The module that defines a method.

    Raises:
        RecipeError: there is no such method.
    """
    modules = _modules()
    if name not in modules:
        raise RecipeError(f"there is no method {_dashed(name)!r}; the methods are {', '.join(map(_dashed, names()))}")
    return modules[name]


def _dashed(name: str) -> str:
    """The name as users write it."""
    return name.replace("_", "-")


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
