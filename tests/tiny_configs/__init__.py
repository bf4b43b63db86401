"""Small configs of every model type: one file per family file, found by scanning this folder.

A file holds ``CONFIGS``, model type -> config fields, and ``DECODES`` if its types generate text.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__ = ["CONFIGS", "DECODERS"]

CONFIGS: dict[str, dict[str, Any]] = {}
"""Model type -> fields of a config with three layers and 50 tokens."""

_decoders: set[str] = set()
for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    CONFIGS |= getattr(_module, "CONFIGS", {})
    if getattr(_module, "DECODES", False):
        _decoders |= set(_module.CONFIGS)

DECODERS = frozenset(_decoders)
"""The model types that generate text; the others are encoders."""
