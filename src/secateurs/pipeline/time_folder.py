"""Timings of saved models against the dense model, in fresh processes, for the speed-up contract."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from secateurs.checkpoint import save_load
from secateurs.latency import fresh_processes
from secateurs.latency.compare import Measurement, Speed
from secateurs.latency.fresh_processes import time_saved
from secateurs.latency.timing_process import Request, SavedModel
from secateurs.pipeline.contract import STEERING_PROCESSES
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.target_context import TargetContext
from secateurs.progress import Track
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.surgery.shared_copy import shared_copy
from secateurs.surgery.shrink import shrink

__all__ = ["seconds_of_process", "time_folder", "time_shapes"]


def time_folder(loaded: Loaded, folder: Path, processes: int, track: Track, label: str) -> Measurement:
    """Time a saved model against the dense model of the recipe.

    Args:
        loaded: everything that the recipe names.
        folder: folder of the saved model.
        processes: number of fresh processes.
        track: shows progress.
        label: title of the progress display.

    Returns:
        Timings of the models ``"dense"`` and ``"pruned"``.

    Raises:
        TimingError: a process cannot load or run the models.
    """
    task, recipe = loaded.task, loaded.recipe
    models = {
        "dense": _dense(loaded),
        "pruned": SavedModel(str(folder), task.auto_class, "", task.may_be_missing, recipe.trust_remote_code),
    }
    return time_saved(models, loaded.environment, processes=processes, seed=recipe.seed, track=track, label=label)


def seconds_of_process(loaded: Loaded) -> float:
    """Seconds that one timing process takes, with the dense model in the place of the pruned one.

    Args:
        loaded: everything that the recipe names.
    """
    models = {"dense": _dense(loaded), "pruned": _dense(loaded)}
    each, rounds = fresh_processes.SECONDS, fresh_processes.ROUNDS
    began = time.perf_counter()
    fresh_processes.run_process(Request(models, "dense", loaded.environment, loaded.recipe.seed, each, rounds))
    return time.perf_counter() - began


def _dense(loaded: Loaded) -> SavedModel:
    task, recipe = loaded.task, loaded.recipe
    return SavedModel(recipe.model, task.auto_class, task.subfolder, task.may_be_missing, recipe.trust_remote_code)


def time_shapes(shared: TargetContext, allocation: Allocation, folder: Path) -> Speed:
    """Time the dense model shrunk to an allocation, as a saved folder. Time depends on the kept counts alone.

    Args:
        shared: what all targets share.
        allocation: kept units of every group.
        folder: temporary folder of the model; it is deleted afterwards.
    """
    loaded, structure = shared.loaded, shared.loaded.structure
    units = {name: torch.arange(count) for name, count in allocation.items()}
    shrunk = shrink(shared_copy(shared.unpruned), structure, Mask.from_units(structure, units), values=False)
    try:
        save_load.save(shrunk, loaded.tokenizer, folder)  # pyright: ignore[reportArgumentType]
        measured = time_folder(loaded, folder, STEERING_PROCESSES, shared.context.track, "time shapes")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return measured.speedups["pruned"]
