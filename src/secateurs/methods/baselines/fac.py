"""FAC, the simplest baseline of FLOP: every matrix is a pair of factors of one fixed small rank, which is then trained.

The rank of each matrix is the same fraction of its break-even rank, at which two factors are as large as the matrix. Every
matrix therefore keeps the same fraction of its parameters. The difference to FLOP shows what it is worth to learn *which*
components are kept, and where.

``init=svd`` starts from the strongest components of a trained model. ``init=scratch`` starts from random weights throughout:
a smaller model of the same kind, trained from scratch.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.gates.learner import freeze_embeddings
from secateurs.methods.base import Finetuning, Fitted, ForwardPasses
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.methods.baselines._task_or_distillation_loss import (
    LossObjective,
    TaskOrDistillationLoss,
    TrainOn,
    check_labels,
)
from secateurs.methods.flop.components import component_groups, with_pairs
from secateurs.numerics.low_rank import break_even
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.surgery.factorize import factorize, multiply_back, pairs
from secateurs.surgery.shrink import zero_masked
from secateurs.tasks.roles import RoleSizes

__all__ = ["FAC", "METHOD"]


@dataclass(frozen=True)
class FAC:
    """A fixed rank for every matrix, and training.

    Args:
        matrices: matrices that are factorised: ``all``, ``attention``, ``feed-forward``, or patterns of paths.
        init: factors at the start. ``svd``: the strongest components of the model. ``scratch``: random; the model gives its
            shape only.
        teach: what the factors are trained on. ``labels``: the loss of the task. ``outputs``: the outputs of the dense model.
            ``auto``: the first if there are labels.
        epochs: passes over the training split.
        steps: optimiser steps in place of ``epochs``; 0 = epochs count.
        rate: peak of the learning rate, linear to 0.
        freeze_embeddings: do not train embeddings, unless they are random.
    """

    name: ClassVar[str] = "fac"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    init: Literal["svd", "scratch"] = "svd"
    teach: TrainOn = "auto"
    epochs: Annotated[float, Field(gt=0)] = 10.0
    steps: Annotated[int, Field(ge=0)] = 0
    rate: Annotated[float, Field(gt=0)] = 1e-4
    freeze_embeddings: bool = True

    @property
    def finetuning_length(self) -> Finetuning:
        """All of the training: it comes after shrinking."""
        return Finetuning(self.epochs, self.steps, self.rate)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """A copy whose matrices are pairs of factors."""
        return with_pairs(model, self.matrices)

    def structure(self, model: nn.Module) -> Structure:
        """The components of every pair."""
        return component_groups(model, self.matrices)

    def check(self, context: PruneContext) -> None:
        """See ``Method.check``: training by labels needs labels."""
        check_labels(self.teach, context)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: the method trains on the training split and uses no other texts."""
        return RoleSizes()

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: nothing before the fine-tuning."""
        return ForwardPasses()

    def fit(self, context: PruneContext) -> FittedFAC:
        """Keep the dense weights."""
        return FittedFAC(self, context)


class FittedFAC(Fitted):
    """Cuts every pair to its rank, and trains it as the fine-tuning.

    Args:
        settings: hyper-parameters.
        context: model, texts and task.
    """

    def __init__(self, settings: FAC, context: PruneContext) -> None:
        self.settings, self.context = settings, context
        self.teacher = context.teacher or copy.deepcopy(context.model).eval()
        self.loss = TaskOrDistillationLoss(settings.teach, context, self.teacher)
        if settings.freeze_embeddings and settings.init == "svd":
            freeze_embeddings(context.model)
        self.dense = {name: value.clone() for name, value in context.model.state_dict().items()}

    def allocate(self, budget: Budget) -> Allocation:
        """The same fraction of the break-even rank of every matrix."""
        return even_counts(self.context.structure, budget, self._break_even_ranks())

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """The strongest components of the model, or the first components of a random one."""
        model, structure = self.context.model, self.context.structure
        mask = Mask.from_units(structure, {name: torch.arange(count) for name, count in allocation.items()})
        scratch = self.settings.init == "scratch"
        model.load_state_dict(self._random_model(allocation).state_dict() if scratch else self.dense)
        zero_masked(model, structure, mask)
        return mask

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> LossObjective:
        """The training."""
        return LossObjective("training", self.loss)

    def _break_even_ranks(self) -> Allocation:
        """The rank at which a pair is as large as its matrix; the size of groups that are no pairs."""
        ranks = {}
        for group in self.context.structure:
            ranks[group.name] = group.size
            if group.product:
                pair: Any = self.context.model.get_submodule(group.product)
                ranks[group.name] = max(1, min(group.size, break_even(pair.in_features, pair.out_features)))
        return ranks

    @torch.no_grad()
    def _random_model(self, allocation: Allocation) -> nn.Module:
        """A model of this kind with random weights, scaled so that the kept components sum up to as much as all would."""
        context = self.context
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            drawn: Any = type(self.teacher)(self.teacher.config).to(context.device)
        for path in pairs(drawn):  # their factors were initialised each like a matrix
            multiply_back(drawn, path)
        for index, (path, pair) in enumerate(pairs(context.model).items()):
            factorize(drawn, [path], init="scratch", rank=pair.rank, seed=1_000_003 * context.seed + index)
        for group in context.structure:
            share = max(1, allocation[group.name]) / group.size
            for cut in group.cuts:
                drawn.get_parameter(cut.parameter).mul_(share ** (-1 / (2 * len(group.cuts))))
        return drawn


METHOD = FAC
