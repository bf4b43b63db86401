"""FAC, the plainest baseline of FLOP: every matrix is a pair of factors of one fixed small rank, and that is trained.

The rank of each matrix is the same part of its break-even rank, the one with which two factors are as large as their
matrix: so every matrix keeps the same part of its parameters. What learning *which* components stay, and where, is worth
is the difference to this.

``init=svd`` starts from the strongest components of a trained model; ``init=scratch`` from random weights throughout, which
is a smaller model of the same kind trained from scratch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.factorize import factorize, multiply_back, pairs
from secateurs.job import Job, Pruner, Recovering
from secateurs.mask import Mask
from secateurs.methods._components import components, with_pairs
from secateurs.methods._even import even_counts
from secateurs.methods._lesson import Lesson, Lessons, Plain, check_labels, freeze_embeddings
from secateurs.numerics.low_rank import break_even
from secateurs.shrink import zero_masked
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["FAC", "METHOD"]


@dataclass(frozen=True)
class FAC:
    """A fixed rank for every matrix, and training.

    Args:
        matrices: which: ``all``, ``attention``, ``feed-forward``, or patterns of paths.
        init: ``svd``: the strongest components of the model; ``scratch``: random weights, nothing of the model but its
            shape.
        teach: ``labels``: the task's own loss; ``outputs``: what the dense model answers; ``auto``: the first where there
            are labels.
        epochs: passes over the training split.
        steps: so many steps in place of ``epochs``; 0 = epochs count.
        rate: peak of the learning rate, linear to 0.
        freeze_embeddings: leave embeddings as they are, unless they are random.
    """

    name: ClassVar[str] = "fac"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    init: Literal["svd", "scratch"] = "svd"
    teach: Lessons = "auto"
    epochs: float = 10.0
    steps: int = 0
    rate: float = 1e-4
    freeze_embeddings: bool = True

    def __post_init__(self) -> None:
        for field in ("epochs", "rate"):
            if not (value := getattr(self, field)) > 0:
                raise RecipeError(f"fac: {field} must be above 0, not {value:g}")
        if self.steps < 0:
            raise RecipeError(f"fac: steps must not be negative, not {self.steps}")

    @property
    def recovering(self) -> Recovering:
        """All of its training comes after shrinking."""
        return Recovering(self.epochs, self.steps, self.rate)

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """A copy whose matrices are pairs of factors."""
        return with_pairs(model, self.matrices)

    def structure(self, model: nn.Module) -> Structure:
        """The components of every pair."""
        return components(model, self.matrices)

    def check(self, job: Job) -> None:
        """Labels, where they are to teach.

        Raises:
            RecipeError: there are none.
        """
        check_labels(self.teach, job)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """See ``secateurs.job.Method``: what is trained is trained in recovery."""
        return {"prepare": 0.0, "target": 0.0}

    def prepare(self, job: Job) -> FACPruner:
        """Nothing is shared."""
        return FACPruner(self, job)


class FACPruner(Pruner):
    """Cuts every pair to its rank; what follows is called recovery everywhere else.

    Args:
        how: the hyper-parameters.
        job: model, texts and task.
    """

    def __init__(self, how: FAC, job: Job) -> None:
        self.how, self.job = how, job
        self.teacher = job.teacher or copy.deepcopy(job.model).eval()
        self.lesson = Lesson(how.teach, job, self.teacher)
        if how.freeze_embeddings and how.init == "svd":
            freeze_embeddings(job.model)
        self.dense = {name: value.clone() for name, value in job.model.state_dict().items()}

    def choose(self, budget: Budget) -> Mask:
        """The same part of the break-even rank of every matrix; components are in order of what they carry."""
        counts = even_counts(self.job.structure, budget, self._whole())
        return Mask.from_units(self.job.structure, {name: torch.arange(count) for name, count in counts.items()})

    def install(self, mask: Mask, folder: str) -> Mask:
        """The first components of the model, or of one that was drawn at random."""
        model, structure = self.job.model, self.job.structure
        model.load_state_dict(self.dense if self.how.init == "svd" else self._drawn(mask).state_dict())
        zero_masked(model, structure, mask)
        return mask

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Plain:
        """The training."""
        return Plain("training", self.lesson)

    def _whole(self) -> dict[str, int]:
        """The rank at which a pair is as large as its matrix, or all it has."""
        whole = {}
        for group in self.job.structure:
            whole[group.name] = group.size
            if group.product:
                pair: Any = self.job.model.get_submodule(group.product)
                whole[group.name] = max(1, min(group.size, break_even(pair.in_features, pair.out_features)))
        return whole

    @torch.no_grad()
    def _drawn(self, mask: Mask) -> nn.Module:
        """A model of this kind with random weights, of which fewer components sum up to as much as all would."""
        job = self.job
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            drawn: Any = type(self.teacher)(self.teacher.config).to(job.device)
        for path in pairs(drawn):  # their factors were drawn each as if it were a matrix
            multiply_back(drawn, path)
        for index, (path, pair) in enumerate(pairs(job.model).items()):
            factorize(drawn, [path], init="scratch", rank=pair.rank, seed=1_000_003 * job.seed + index)
        for group in job.structure:
            share = max(1, mask.counts[group.name]) / group.size
            for cut in group.cuts:
                drawn.get_parameter(cut.parameter).mul_(share ** (-1 / (2 * len(group.cuts))))
        return drawn


METHOD = FAC
