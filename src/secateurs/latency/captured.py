"""The inputs that modules get inside a model, captured in one pass, and given to modules that are timed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateurs.latency.key_value_cache import fresh_copy, is_cache
from secateurs.latency.passes import Pass
from secateurs.latency.timer import Run

__all__ = ["Captured", "capture"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of one call."""


@dataclass(frozen=True)
class Captured:
    """The calls of one module in a pass.

    Args:
        calls: calls in the pass that is timed.
        before: calls in the pass that fills the cache; none if there is no such pass.
        empty: key-value cache without any token; ``None`` if the module is given none.
    """

    calls: list[Call] = field(default_factory=list)
    before: list[Call] = field(default_factory=list)
    empty: Any = None

    def of_module(self, run: Callable[[Mapping[str, Any]], Any]) -> Run:
        """The calls as a run of a prepared module, which may be pruned: its cache then has fewer heads.

        The cache is filled by the module itself, so that it has the shapes that the module writes and reads.

        Args:
            run: runs the module on ``{"calls": calls}``.
        """
        if self.empty is None:
            return lambda: run({"calls": self.calls})
        cache = fresh_copy(self.empty)
        if self.before:
            run({"calls": _with_cache(self.before, cache)})
        return lambda: run({"calls": _with_cache(self.calls, fresh_copy(cache))})


def capture(model: nn.Module, timed: Pass, paths: Iterable[str]) -> dict[str, Captured]:
    """Module path -> its calls in a pass of the model.

    Args:
        model: the model.
        timed: the pass.
        paths: paths of the modules.
    """
    paths = [*paths]
    with torch.inference_mode():
        if timed.before is None:
            calls, empty, _ = _calls(model, timed.inputs, paths)
            before: dict[str, list[Call]] = {path: [] for path in paths}
        else:
            before, empty, output = _calls(model, timed.before, paths)
            calls, _, _ = _calls(model, {**timed.inputs, "past_key_values": output.past_key_values}, paths)
    return {path: Captured(calls[path], before[path], empty if _take_a_cache(calls[path]) else None) for path in paths}


def _calls(model: nn.Module, inputs: Mapping[str, Any], paths: Iterable[str]) -> tuple[dict[str, list[Call]], Any, Any]:
    """The calls of modules in one pass, the cache as the first module got it, and the output of the model."""
    calls: dict[str, list[Call]] = {path: [] for path in paths}
    first: list[Any] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[path].append((args, kwargs))

        return hook

    def see_cache(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not first:
            first.extend(fresh_copy(value) for value in (*args, *kwargs.values()) if is_cache(value))

    handles = [model.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True) for path in calls]
    handles += [module.register_forward_pre_hook(see_cache, with_kwargs=True) for module in model.modules()]
    try:
        output = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls, first[0] if first else None, output


def _take_a_cache(calls: Iterable[Call]) -> bool:
    return any(is_cache(value) for args, kwargs in calls for value in (*args, *kwargs.values()))


def _with_cache(calls: Iterable[Call], cache: Any) -> list[Call]:
    """The calls with another cache."""
    return [
        (
            tuple(cache if is_cache(value) else value for value in args),
            {name: cache if is_cache(value) else value for name, value in kwargs.items()},
        )
        for args, kwargs in calls
    ]
