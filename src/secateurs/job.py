"""``Job``: what a method is given. ``Method`` and ``Pruner``: what it must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from secateurs.mask import Mask
from secateurs.objective import Objective
from secateurs.processes import count
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["Job", "Method", "Pruner", "Recovering", "Track"]

T = TypeVar("T")


class Track(Protocol):
    """Progress over an iterable: the command line draws a bar, the library stays silent."""

    def __call__(self, items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]: ...


def silent(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """No progress."""
    yield from items


@dataclass(frozen=True)
class Recovering:
    """How long a model is trained after it was shrunk.

    Args:
        epochs: passes over the training split; 0 = not at all, if there are no steps either.
        steps: so many steps in place of epochs.
        learning_rate: peak, linear to 0.
    """

    epochs: float = 0.0
    steps: int = 0
    learning_rate: float = 5e-5

    def __bool__(self) -> bool:
        return self.epochs > 0 or self.steps > 0

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.epochs:g} epochs"


@dataclass(frozen=True)
class Job:
    """Everything a method may look at, and the model it works on.

    Args:
        model: the dense model as the method has ``rebuilt`` it, in evaluation mode, on ``device``. A pruner rewrites its
            tensors in place.
        structure: what can be removed from it.
        batches: calibration batches (CPU tensors); labels only where the data has them.
        task: how outputs are compared (a ``secateurs.tasks.Task``).
        folder: where artefacts of this run are kept, so that a killed run can be taken up.
        seed: every random choice follows from it.
        device: where the model computes.
        track: progress.
        train: rows to train on, or ``None``.
        collate: rows -> batch.
        train_batch_size: rows that a process trains on at once.
        accumulate: so many batches to one step of the optimiser.
        trackers: names of those that follow the training.
        teacher: the dense model itself, which nobody touches; ``None`` = ask ``model`` before it is rewritten.
    """

    model: nn.Module
    structure: Structure
    batches: Sequence[dict[str, Tensor]]
    task: Any
    folder: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    track: Callable[..., Iterable[Any]] = silent
    train: Any | None = None
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None
    train_batch_size: int = 32
    accumulate: int = 1
    trackers: tuple[str, ...] = ()
    teacher: nn.Module | None = None

    @property
    def rows_a_step(self) -> int:
        """Rows that one step of the optimiser is taken on, in all processes together."""
        return self.train_batch_size * self.accumulate * count()

    def logs(self, place: Path) -> Path:
        """Where trackers leave their files of a training that has its checkpoints in ``place``; they are to stay."""
        return self.folder.parent / "trackers" / place.relative_to(self.folder)


class Pruner(Protocol):
    """A method made ready for one model and its data; serves any number of targets."""

    def choose(self, budget: Budget) -> Mask:
        """Choose what to keep within the budget. The same budget gets the same answer.

        The contract asks again, with a budget a few per cent off, when the shrunk model misses its target: an answer
        near to an earlier one should cost little.

        Raises:
            TargetUnreachable: nothing that may be removed is enough.
        """
        ...

    def install(self, mask: Mask, folder: str) -> Mask:
        """Put the final weights of a mask that was chosen into ``job.model``; which units stay may change, not how many.

        Args:
            mask: what ``choose`` answered, in this run or the one it resumes.
            folder: of the target it was chosen for.

        When this returns, the model is at full size and every unit outside the mask contributes exactly zero, so that
        ``shrink`` changes no output.
        """
        ...

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Objective:
        """What a model that was shrunk to ``mask`` for the target of ``folder`` is trained on."""
        ...

    def expected(self, folder: str) -> float | None:
        """The sparsity that was expected of the gates learned for the target of ``folder``; ``None`` without gates.

        A gate has a probability to be open, a unit is there or not: the mask removes another fraction than this one.
        """
        return None


class Method(Protocol):
    """A frozen set of hyper-parameters that knows how to prune. One file each in ``secateurs.methods``."""

    name: ClassVar[str]
    trains: ClassVar[bool]
    """Needs a training split even where nothing is recovered."""
    by_parameters: ClassVar[bool]
    """Can cut to a number of parameters (``Sparsity``), and not to a time alone."""
    by_time: ClassVar[bool]
    """Can cut to a time (``Speedup``): what it removes makes a model faster."""

    @property
    def recovering(self) -> Recovering:
        """How what was shrunk is trained, where the recipe does not say."""
        ...

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """The dense model, or a copy that computes the same with other modules (pairs of factors)."""
        ...

    def structure(self, model: nn.Module) -> Structure:
        """What this method may remove from the model that it has ``rebuilt``."""
        ...

    def check(self, job: Job) -> None:
        """Refuse what cannot end well with this model and data; called before any work, the folder is not there yet.

        Raises:
            SecateursError: in one line, what does not fit.
        """
        ...

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """Work in forward passes of one sequence: ``prepare`` once, ``target`` for each target; for the dry run.

        Args:
            structure: of the model.
            samples: calibration texts.
            rows: of the training split.
            batch: of those, in one step of the optimiser.
        """
        ...

    def prepare(self, job: Job) -> Pruner:
        """The work that all targets share (calibration, the level database)."""
        ...
