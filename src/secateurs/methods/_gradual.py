"""What the two gradual prunings share: how long and on what they train, and where they keep what was learned."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from secateurs.arithmetic import native_bfloat16
from secateurs.artefact import write
from secateurs.errors import CheckpointError, RecipeError
from secateurs.job import Job, Pruner, Recovering
from secateurs.mask import Mask
from secateurs.methods._even import even_counts
from secateurs.methods._lesson import Lesson, Lessons, Plain, check_labels, freeze_embeddings
from secateurs.objective import Objective
from secateurs.processes import first
from secateurs.stages.train import Training, train
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["Gradual", "GradualPruner"]


@dataclass(frozen=True)
class Gradual:
    """Pruned little by little, by the cubic schedule, while the weights learn.

    Args:
        matrices: which: ``all``, ``attention``, ``feed-forward``, or patterns of paths.
        teach: ``labels``: the task's own loss; ``outputs``: what the dense model answers; ``auto``: the first where there
            are labels.
        epochs: passes over the training split.
        steps: so many steps in place of ``epochs``; 0 = epochs count.
        begin: part of the steps after which pruning begins.
        end: part of them after which the sparsity is that of the target.
        start: sparsity with which pruning begins.
        rate: peak of the learning rate of the weights, linear to 0.
        freeze_embeddings: leave embeddings as they are.
        finetuning: passes over the training split after shrinking.
        finetuning_steps: so many steps in their place; 0 = passes count.
        finetuning_rate: peak of their learning rate.
    """

    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True
    name: ClassVar[str]

    matrices: str = "all"
    teach: Lessons = "auto"
    epochs: float = 10.0
    steps: int = 0
    begin: float = 0.0
    end: float = 0.3
    start: float = 0.05
    rate: float = 1e-4
    freeze_embeddings: bool = True
    finetuning: float = 0.0
    finetuning_steps: int = 0
    finetuning_rate: float = 1e-4

    def __post_init__(self) -> None:
        for field in ("epochs", "rate", "finetuning_rate"):
            if not (value := getattr(self, field)) > 0:
                raise RecipeError(f"{self.name}: {field} must be above 0, not {value:g}")
        for field in ("steps", "finetuning", "finetuning_steps"):
            if (value := getattr(self, field)) < 0:
                raise RecipeError(f"{self.name}: {field} must not be negative, not {value:g}")
        if not 0 <= self.begin < self.end <= 1:
            raise RecipeError(
                f"{self.name}: begin and end are parts of the steps, 0 <= begin < end <= 1, not {self.begin:g} and "
                f"{self.end:g}"
            )
        if not 0 <= self.start < 1:
            raise RecipeError(f"{self.name}: start is a sparsity, 0 <= start < 1, not {self.start:g}")

    @property
    def recovering(self) -> Recovering:
        """The fine-tuning, if any."""
        return Recovering(self.finetuning, self.finetuning_steps, self.finetuning_rate)

    def check(self, job: Job) -> None:
        """Labels, where they are to teach.

        Raises:
            RecipeError: there are none.
        """
        check_labels(self.teach, job)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """See ``secateurs.job.Method``: a step is three passes, and one of the teacher where there are no labels."""
        return {"prepare": 0.0, "target": 4.0 * (self.steps * batch if self.steps else self.epochs * rows)}


class GradualPruner(Pruner, ABC):
    """How many units stay follows from the budget alone: training waits until the shapes are settled.

    Args:
        how: the hyper-parameters.
        job: model, texts and task.
    """

    def __init__(self, how: Any, job: Job) -> None:
        self.how, self.job = how, job
        self.teacher = job.teacher or copy.deepcopy(job.model).eval()
        self.dense = {name: value.clone() for name, value in job.model.state_dict().items()}
        self.lesson = Lesson(how.teach, job, self.teacher)
        if how.freeze_embeddings:
            freeze_embeddings(job.model)

    @abstractmethod
    def learner(self) -> nn.Module:
        """The model in its first state, with what prunes it around it."""

    @abstractmethod
    def objective(self, learner: Any, counts: dict[str, int], folder: str) -> Objective:
        """What trains a learner, and prunes it until so many units of each group are left."""

    def choose(self, budget: Budget) -> Mask:
        """The same part of every group, by number: which units these are is learned in ``install``."""
        counts = even_counts(self.job.structure, budget)
        return Mask.from_units(self.job.structure, {name: torch.arange(count) for name, count in counts.items()})

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Plain:
        """The same lesson."""
        return Plain("recovery", self.lesson)

    def learned(self, counts: dict[str, int], folder: str) -> Any:
        """The learner after its training, which is on disk if it was done before."""
        job, how, place = self.job, self.how, self.job.folder / folder
        job.model.load_state_dict(self.dense)
        learner, path = self.learner(), place / "learned.safetensors"
        if path.is_file():
            _read(learner, path)
            return learner
        assert job.collate is not None
        training = Training(
            how.epochs, how.steps, how.rate, job.train_batch_size, bf16=native_bfloat16(job.device),
            accumulate=job.accumulate, trackers=job.trackers, logs=job.logs(place / "pruning"),
        )  # fmt: skip
        train(
            job.model, self.objective(learner, counts, folder), job.train, job.collate, training, place / "pruning",
            seed=job.seed, device=job.device, track=job.track,
        )  # fmt: skip
        values = {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}
        first(lambda: write(path, lambda partial: save_file(values, partial)))
        return learner


def _read(learner: nn.Module, path: Path) -> None:
    try:
        learner.load_state_dict(load_file(path))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot read what was learned, {path}: {reason}; delete it and use --resume") from None
