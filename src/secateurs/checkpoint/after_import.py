"""A finder for ``sys.meta_path`` that calls a function right after a module is imported, without importing it."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

__all__ = ["AfterImport", "attempt"]

logger = logging.getLogger(__name__)


class AfterImport(MetaPathFinder):
    """Calls a function on each of some modules right after its import. An error in it becomes a line in the log.

    Args:
        actions: name of a module -> function that is given the module.
    """

    def __init__(self, actions: Mapping[str, Callable[[Any], None]]):
        self.actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        action = self.actions.get(fullname)
        if action is None:
            return None
        try:
            spec = self._found_by_others(fullname, path, target)
        except Exception:  # the import calls the other finders again, and raises it as it would without this one
            return None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, action)
        return spec

    def _found_by_others(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _Loader(Loader):
    """The loader of one module with an action after it. Once the module is loaded, its own loader is in its place."""

    def __init__(self, loader: Any, action: Callable[[Any], None]):
        self.loader, self.action = loader, action

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        attempt(self.action, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def attempt(action: Callable[[Any], None], module: Any) -> None:
    """Change a module. An error becomes a line in the log, because everything except Secateurs works without the change."""
    try:
        action(module)
    except Exception as error:
        name = getattr(module, "__name__", module)
        logger.warning("secateurs could not change %s, so pruned folders may not load: %r", name, error)
