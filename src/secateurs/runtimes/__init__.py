"""Runtimes: one file each, how a model is made ready and run. A new one is one new file here; nothing else names it.

A runtime is a function ``prepare(model, environment) -> callable(batch)``. The callable runs the model once and
returns when the result is there. ``prepare`` leaves the model it is given as it was.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from secateurs.environment import Environment
from secateurs.errors import RecipeError

__all__ = ["Prepare", "names", "register", "runtime"]


class Prepare(Protocol):
    """Make a model ready to run in an environment."""

    def __call__(self, model: nn.Module, environment: Environment) -> Callable[[Mapping[str, Any]], Any]: ...


_RUNTIMES: dict[str, Prepare] = {}


def register(name: str) -> Callable[[Prepare], Prepare]:
    """Make a function known as the runtime ``name``."""

    def keep(prepare: Prepare) -> Prepare:
        _RUNTIMES[name] = prepare
        return prepare

    return keep


def names() -> list[str]:
    """Every runtime there is."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_RUNTIMES)


def runtime(name: str) -> Prepare:
    """The runtime of that name.

    Raises:
        RecipeError: there is none.
    """
    known = names()
    if name not in _RUNTIMES:
        raise RecipeError(f"runtime {name!r} is unknown; choose one of: {', '.join(known)}")
    return _RUNTIMES[name]
