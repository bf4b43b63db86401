"""AGP over single weights, the unstructured baseline of FLOP: gradual magnitude pruning by ``torch.nn.utils.prune``.

The smallest weights of every matrix are set to 0 by the cubic schedule of automated gradual pruning (Zhu and Gupta 2017),
the same fraction of each. No unit is removed: tensors keep their size, and the model is as large and as slow as before. The
result shows what quality a sparsity costs if speed does not matter.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import prune

from secateurs.context import PruneContext
from secateurs.methods.baselines._gradual import GradualFitted, PruningModule
from secateurs.methods.baselines._settings import AGPUnstructuredSettings, GradualSettings
from secateurs.methods.baselines._task_or_distillation_loss import LossObjective, TaskOrDistillationLoss
from secateurs.methods.flop.components import embedding_widths
from secateurs.modeling.pruned_modules import is_factored
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import ParameterCost
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.surgery.factorize import matrices, rank_groups
from secateurs.surgery.input_selection import input_groups
from secateurs.tasks.base import Batch
from secateurs.training.objective import Objective
from secateurs.training.schedules import cubic_sparsity

__all__ = ["METHOD", "AGPUnstructured"]

PRUNINGS = 100
"""Largest number of prunings in a training: ``torch.nn.utils.prune`` keeps a record of each."""


@dataclass(frozen=True)
class AGPUnstructured(AGPUnstructuredSettings):
    """Gradual magnitude pruning of single weights: zeros in tensors of full size."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """Groups that own every entry of the chosen matrices: inputs, or the components of pairs. None is cut."""
        return entry_groups(model, self.matrices)

    def fit(self, context: PruneContext) -> FittedUnstructured:
        """Keep the dense weights: every target is learned from them."""
        return FittedUnstructured(self, context)


class FittedUnstructured(GradualFitted["SparseModel"]):
    """Keeps every unit; a sparsity target becomes a fraction of zeros."""

    def allocate(self, budget: Budget) -> Allocation:
        """Every unit."""
        return self.context.structure.sizes

    def new_learner(self) -> SparseModel:
        """See ``GradualFitted``."""
        return SparseModel(self.context.model, weights(self.context.structure))

    def objective(self, learner: SparseModel, budget: Budget, allocation: Allocation) -> Sparsifying:
        """See ``GradualFitted``."""
        cost = budget.cost
        assert isinstance(cost, ParameterCost), "zeros save no time"
        fraction = 1 - (budget.limit - cost.fixed) / cost.dense
        return Sparsifying(learner, self.loss, fraction, self.settings)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """The learned weights, with the zeros written into them."""
        self.trained_learner(folder).folded()
        return Mask.full(self.context.structure)

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> LossObjective:
        """The same loss; weights that are 0 stay 0."""
        return KeepingZeros("recovery", self.loss, weights(self.context.structure))


class KeepingZeros(LossObjective):
    """The loss alone, for a model some of whose weights are 0 and stay 0.

    Args:
        name: name of the training in messages.
        how: the loss.
        paths: paths of the modules whose zeros are kept.
    """

    def __init__(self, name: str, how: TaskOrDistillationLoss, paths: list[str]) -> None:
        super().__init__(name, how)
        self.paths = paths
        self.zeros: list[tuple[nn.Parameter, Bool[Tensor, "rows columns"]]] = []

    def trained_module(self, model: nn.Module) -> nn.Module:
        """The model. Its zeros are recorded here, before a killed training is resumed."""
        weights = [model.get_parameter(f"{path}.weight") for path in self.paths]
        self.zeros = [(weight, weight.detach() == 0) for weight in weights]
        return model

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Set the recorded entries to 0 again."""
        for weight, zero in self.zeros:
            weight.masked_fill_(zero, 0.0)


class SparseModel(PruningModule):
    """A model some of whose weights are masked.

    Args:
        model: the model.
        paths: paths of the modules whose weights are masked.
    """

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        super().__init__()
        self.model = model
        self.modules_of = [model.get_submodule(path) for path in paths]
        for module in self.modules_of:
            prune.identity(module, "weight")

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the model with masked weights."""
        return self.model(**inputs)

    def prune(self, fraction: float) -> None:
        """Set the smallest weights to 0 until this fraction of every matrix is 0."""
        for module in self.modules_of:
            mask, weight = module.get_buffer("weight_mask"), module.get_parameter("weight_orig")
            more = min(mask.numel(), math.ceil(fraction * mask.numel())) - int((mask == 0).sum())
            if more > 0:
                prune.l1_unstructured(module, "weight", amount=more, importance_scores=weight.detach())

    def folded(self) -> nn.Module:
        """Write the zeros into the weights of the model, in place, and return it."""
        for module in self.modules_of:
            prune.remove(module, "weight")
        return self.model


class Sparsifying(Objective):
    """Weights are trained while the sparsity rises.

    Args:
        sparse: the trained module, made by the caller, who needs it after the training.
        how: the loss.
        fraction: fraction of every matrix that is 0 at the end.
        settings: the schedule.
    """

    name = "pruning"

    def __init__(
        self, sparse: SparseModel, how: TaskOrDistillationLoss, fraction: float, settings: GradualSettings
    ) -> None:
        self.sparse, self.how, self.fraction, self.settings = sparse, how, fraction, settings

    def trained_module(self, model: nn.Module) -> SparseModel:
        """The module that was given, pruned to the first sparsity."""
        self.sparse.prune(self._sparsity(0.0))
        return self.sparse

    def loss(self, model: nn.Module, inputs: Batch, step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return self.how.loss(model, inputs, self.sparse.model)

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Prune to the sparsity of this step, ``PRUNINGS`` times in all."""
        if step % max(1, steps // PRUNINGS) == 0 or step == steps:
            self.sparse.prune(self._sparsity(step / steps))

    def _sparsity(self, now: float) -> float:
        how = self.settings
        return cubic_sparsity(now, how.begin, how.end, self.fraction, how.start)


def entry_groups(model: nn.Module, which: str) -> Structure:
    """Groups that own all entries of the chosen matrices, of both factors of a pair, and nothing else."""
    found = [is_factored(model.get_submodule(path)) for path in matrices(model, which)]
    pairs = rank_groups(model, which) if any(found) else ()
    return Structure((*embedding_widths(model, which), *pairs, *(() if all(found) else input_groups(model, which))))


def weights(structure: Structure) -> list[str]:
    """Paths of the modules whose weights are pruned."""
    return list(dict.fromkeys(cut.parameter.removesuffix(".weight") for group in structure for cut in group.cuts))


METHOD = AGPUnstructured
