"""Code from the folders of models, in a cache that belongs to one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["own_cache"]


@contextmanager
def own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """Transformers keeps code in ``cache``, and knows no code from other caches; afterwards it knows none.

    Python looks for all of this code where it found the package ``transformers_modules`` first.
    """
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(cache))
    _forget()
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
