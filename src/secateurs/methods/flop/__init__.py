"""FLOP (Wang, Wohlwend, Lei 2020, 1910.04732): the rank of every matrix is learned together with the weights.

The names below are imported on first use: the settings are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.methods.flop.method import FLOP, METHOD, PRESETS

__all__ = ["FLOP", "METHOD", "PRESETS"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("secateurs.methods.flop.method"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
