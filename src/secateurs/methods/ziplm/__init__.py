"""ZipLM (Kurtic, Frantar, Alistarh 2023, 2302.04089): inference-aware structured pruning.

The names below are imported on first use: the settings are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.methods.ziplm.method import METHOD, PRESETS, ZipLM

__all__ = ["METHOD", "PRESETS", "ZipLM"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("secateurs.methods.ziplm.method"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
