"""Secateurs: structured pruning of transformers to a *measured* speed-up.

>>> import secateurs  # from here on, from_pretrained reads pruned folders

Importing this package is light: it neither starts CUDA nor loads the modelling code of transformers. Names are loaded
when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from secateurs.errors import (
    CalibrationError,
    CheckpointError,
    DataError,
    RecipeError,
    SecateursError,
    TargetUnreachable,
    UnsupportedModelError,
)
from secateurs.loader import install as _install

if TYPE_CHECKING:
    from secateurs.checkpoint import load, save
    from secateurs.cost import ParameterCost
    from secateurs.environment import Environment
    from secateurs.families import discover
    from secateurs.latency_table import LatencyTable
    from secateurs.mask import Mask
    from secateurs.pipeline import run
    from secateurs.recipe import Recipe
    from secateurs.report import Report
    from secateurs.structure import Cut, Group, Kind, Structure

__version__ = "0.1.0"

_LAZY = {
    "Cut": "structure",
    "Environment": "environment",
    "Group": "structure",
    "Kind": "structure",
    "LatencyTable": "latency_table",
    "Mask": "mask",
    "ParameterCost": "cost",
    "Recipe": "recipe",
    "Report": "report",
    "Structure": "structure",
    "discover": "families",
    "load": "checkpoint",
    "run": "pipeline",
    "save": "checkpoint",
}

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "Cut",
    "DataError",
    "Environment",
    "Group",
    "Kind",
    "LatencyTable",
    "Mask",
    "ParameterCost",
    "Recipe",
    "RecipeError",
    "Report",
    "SecateursError",
    "Structure",
    "TargetUnreachable",
    "UnsupportedModelError",
    "discover",
    "load",
    "run",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"secateurs.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'secateurs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


_install()
