"""Registry of runtimes. The file ``<name>_runtime.py`` in this folder registers the runtime ``<name>``.

A runtime is a function ``prepare(model, environment) -> callable(batch)``. The callable runs the model once and returns
when the result is available. ``prepare`` leaves the given model unchanged. To add a runtime, add one file to this folder;
no other file names it. The suffix ``_runtime`` prevents a module from having the name of the library that it uses.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment

__all__ = ["Prepare", "names", "register", "runtime", "runtime_for"]


class Prepare(Protocol):
    """Prepare a model to run in an environment.

    The arguments are a model, which stays unchanged, and the environment. The result is a function that runs one batch
    and returns the output of the model when it is available.
    """

    def __call__(self, model: nn.Module, environment: Environment) -> Callable[[Mapping[str, Any]], Any]: ...


_RUNTIMES: dict[str, Prepare] = {}

_KEEP_CACHE: set[str] = set()


def register(name: str, *, keeps_cache: bool = False) -> Callable[[Prepare], Prepare]:
    """Decorator that registers a function as the runtime ``name``.

    Args:
        name: name of the runtime in recipes and latency tables.
        keeps_cache: whether a batch may hold a key-value cache, ``past_key_values``, and the output returns it. The
            regime ``generation`` needs it.
    """

    def keep(prepare: Prepare) -> Prepare:
        _RUNTIMES[name] = prepare
        if keeps_cache:
            _KEEP_CACHE.add(name)
        return prepare

    return keep


def names() -> list[str]:
    """Names of all runtimes, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_RUNTIMES)


def runtime(name: str) -> Prepare:
    """The runtime with the given name.

    Args:
        name: name of the runtime.

    Raises:
        RecipeError: there is no runtime of that name.
    """
    known = names()
    if name not in _RUNTIMES:
        raise RecipeError(f"runtime {name!r} is unknown; choose one of: {', '.join(known)}")
    return _RUNTIMES[name]


def runtime_for(environment: Environment) -> Prepare:
    """The runtime of an environment.

    Args:
        environment: runtime and regime.

    Raises:
        RecipeError: there is no runtime of that name, or it keeps no key-value cache and the regime is ``"generation"``.
    """
    found = runtime(environment.runtime)
    if environment.generates and environment.runtime not in _KEEP_CACHE:
        raise RecipeError(
            f"the runtime {environment.runtime} keeps no key-value cache, which the regime generation needs; use "
            f"{' or '.join(sorted(_KEEP_CACHE))}"
        )
    return found
