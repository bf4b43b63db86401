"""A tiny gradual run: its recipe, and the masks that it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_run
from secateurs.pipeline.recipe import Recipe
from secateurs.structure.mask import Mask

__all__ = ["FOLDERS", "family", "masks"]

FOLDERS = ("speedup-1.50x", "speedup-2.00x", "speedup-3.00x")


def family(folder: Path, **changes: Any) -> Recipe:
    """A gradual run of three speed-ups."""
    training = {"recover_steps": 4, "learning_rate": 1e-3, "train_batch_size": 8}
    return tiny_run.recipe(folder, **{"speedup": (1.5, 2.0, 3.0), "gradual": True, **training, **changes})


def masks(out: Path) -> dict[str, Mask]:
    """Folder of a model -> its mask."""
    return {path.parent.name: Mask.load(path) for path in sorted(out.glob("speedup-*/mask.safetensors"))}
