"""``PruneContext``: everything a method is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from secateurs.distributed import count
from secateurs.progress import Track, silent
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["PruneContext"]


@dataclass(frozen=True)
class PruneContext:
    """The model to prune, what can be removed from it, the data, and where the run keeps its files.

    Args:
        model: the dense model after ``Method.prepare_model``, in evaluation mode, on ``device``. A method rewrites its
            tensors in place.
        structure: what can be removed from ``model``.
        fit: batches that weights are fitted to (CPU tensors); with labels only where the data has them.
        task: defines the loss, and how the outputs of two models are compared.
        folder: artifacts of this run, from which a killed run resumes.
        seed: seed of every random choice.
        device: device of ``model``.
        track: shows progress.
        train: training rows, or ``None``.
        collate: turns training rows into a batch; ``None`` without training rows.
        train_batch_size: training rows a process reads at once.
        accumulate: batches per optimiser step.
        trackers: names of the experiment trackers of a training.
        teacher: the dense model itself, never rewritten; ``None`` = copy ``model`` before rewriting it.
        search: batches on which candidates are proposed; without any, those of ``fit`` serve.
        accept: batches on which candidates are accepted or rejected; without any, those of ``search`` serve.
        dense_sizes: group name -> units of the dense model, if ``model`` was pruned before. Levels and shares refer to them.
            A group that is not named has as many as ``structure`` says.
    """

    model: nn.Module
    structure: Structure
    fit: Sequence[Batch]
    task: Task
    folder: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    track: Track = silent
    train: Dataset[Any] | None = None
    collate: Callable[[list[dict[str, Any]]], Batch] | None = None
    train_batch_size: int = 32
    accumulate: int = 1
    trackers: tuple[str, ...] = ()
    teacher: nn.Module | None = None
    search: Sequence[Batch] = ()
    accept: Sequence[Batch] = ()
    dense_sizes: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        search = self.search or self.fit
        object.__setattr__(self, "search", search)
        object.__setattr__(self, "accept", self.accept or search)

    @property
    def rows_a_step(self) -> int:
        """Training rows per optimiser step, over all processes."""
        return self.train_batch_size * self.accumulate * count()

    def logs(self, place: Path) -> Path:
        """Folder for the files of trackers of the training whose checkpoints are in ``place``; it outlives ``place``."""
        return self.folder.parent / "trackers" / place.relative_to(self.folder)
