"""CoFi (Xia, Zhong, Chen 2022, 2204.00408): coarse and fine masks learned together, with layer-wise distillation.

The names below are imported on first use: the settings are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs.methods.cofi.method import METHOD, PRESETS, CoFi

__all__ = ["METHOD", "PRESETS", "CoFi"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("secateurs.methods.cofi.method"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
