"""``Start``: the model that a step of a gradual run prunes, the dense one or a finished one of the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateurs.checkpoint.reload_weights import reload_weights
from secateurs.errors import CheckpointError
from secateurs.pipeline.load import Loaded
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.surgery.shared_copy import shared_copy, shrunk_copy
from secateurs.tasks import task as find_task

__all__ = ["Start", "dense_start", "finished_start"]


@dataclass(frozen=True)
class Start:
    """A model to prune further.

    Args:
        model: the model. The method may rewrite it: the dense model is not affected.
        structure: what can be removed from it.
        kept: units of the dense model that it has; ``None`` = all.
    """

    model: nn.Module
    structure: Structure
    kept: Mask | None = None


def dense_start(loaded: Loaded) -> Start:
    """The dense model of a recipe.

    Args:
        loaded: everything that the recipe names.
    """
    return Start(shared_copy(loaded.dense), loaded.structure)


def finished_start(loaded: Loaded, folder: Path) -> Start:
    """A finished model of the same dense model: the dense model shrunk to its mask, with the weights of its folder.

    Args:
        loaded: everything that the recipe names.
        folder: folder of the finished model.

    Raises:
        CheckpointError: the folder is damaged, or of another dense model.
    """
    recipe = loaded.recipe
    kept = Mask.load(folder / "mask.safetensors")
    if {name: len(units) for name, units in kept.kept.items()} != loaded.structure.sizes:
        raise CheckpointError(
            f"{folder} was pruned from another model than {recipe.model}: it cannot be pruned further here"
        )
    task = find_task(recipe.task.replace("-", "_"))  # a new one: the task of the run knows the files of the dense model
    saved, _ = task.load(
        str(folder), dtype=torch.float32, device=recipe.device, trust_remote_code=recipe.trust_remote_code
    )
    model = shrunk_copy(loaded.dense, loaded.structure, kept)
    try:
        reload_weights(model, saved)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} does not hold the model of its mask: {error}") from None
    return Start(model, loaded.method.structure(model), kept)
