"""Secateurs: structured pruning of transformers to a *measured* speed-up.

>>> import secateurs  # from now on, from_pretrained reads pruned folders, until secateurs.uninstall()

Importing this package is fast: it neither starts CUDA nor imports the modelling code of transformers. The public names
below are imported on first use.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from secateurs.checkpoint.hooks import install as _install
from secateurs.checkpoint.hooks import uninstall
from secateurs.checkpoint.transformers_version import check_version
from secateurs.errors import (
    CalibrationError,
    CheckpointError,
    DataError,
    RecipeError,
    SecateursError,
    TargetUnreachable,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from secateurs.checkpoint.save_load import load, save
    from secateurs.latency.environment import Environment
    from secateurs.latency.table import LatencyTable
    from secateurs.pipeline.prune import prune
    from secateurs.pipeline.recipe import Recipe
    from secateurs.pipeline.run import run
    from secateurs.report.report import Report
    from secateurs.structure.cost import ParameterCost
    from secateurs.structure.cut import Cut, Kind
    from secateurs.structure.families import discover
    from secateurs.structure.mask import Mask
    from secateurs.structure.structure import Group, Structure

__version__ = "0.1.0"

_LAZY = {
    "Cut": "structure.cut",
    "Environment": "latency.environment",
    "Group": "structure.structure",
    "Kind": "structure.cut",
    "LatencyTable": "latency.table",
    "Mask": "structure.mask",
    "ParameterCost": "structure.cost",
    "Recipe": "pipeline.recipe",
    "Report": "report.report",
    "Structure": "structure.structure",
    "discover": "structure.families",
    "load": "checkpoint.save_load",
    "prune": "pipeline.prune",
    "run": "pipeline.run",
    "save": "checkpoint.save_load",
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
    "prune",
    "run",
    "save",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(f"secateurs.{_LAZY[name]}"), name)
        except ImportError:
            check_version()  # most likely the reason, which is said in one line
            raise
    raise AttributeError(f"module 'secateurs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _install_hooks() -> None:
    """Install the hooks. With a version of transformers that they do not fit, say so; importing this package never fails."""
    try:
        _install()
    except SecateursError as error:
        logging.getLogger(__name__).warning("%s; until then, transformers is not changed", error)


_install_hooks()
