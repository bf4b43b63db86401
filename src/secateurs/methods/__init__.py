"""Methods: one file each, a frozen set of hyper-parameters with ``structure()`` and ``prepare()``.

A new method is one new file here; the file name is the method's name. Files with a leading underscore are what the
methods share.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secateurs.errors import RecipeError
from secateurs.job import Method

__all__ = ["method", "names"]


def names() -> list[str]:
    """The methods there are: the files of this folder. Imports nothing."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def method(name: str, preset: str = "default", **hyperparameters: Any) -> Method:
    """A method by its name.

    Args:
        name: of the file.
        preset: ``"default"``, or the name of a preset of the method (``"paper"``).
        hyperparameters: fields to override.

    Raises:
        RecipeError: there is no such method, preset or hyper-parameter.
    """
    if name not in names():
        raise RecipeError(f"there is no method {name!r}; the methods are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
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
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise RecipeError(f"the method {name}: {field}: {problem['msg']} (given: {problem['input']!r})") from None
