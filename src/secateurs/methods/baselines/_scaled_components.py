"""AGP over components: one trainable number per component. The smallest numbers are set to 0 as the training proceeds.

    W = P diag(m) Q

(Wang, Wohlwend, Lei 2020, their structured baseline.) ``m`` starts at 1. A number that was set to 0 stays 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from secateurs.gates.fold import Opening, fold
from secateurs.methods.baselines._gradual import PruningModule
from secateurs.methods.baselines._task_or_distillation_loss import TaskOrDistillationLoss
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch
from secateurs.training.objective import CONSTANT_RATE, Objective
from secateurs.training.schedules import cubic_sparsity

__all__ = ["ScaledComponents", "ScalePruning"]


class ScaledComponents(PruningModule):
    """A model in which every unit is multiplied by a trainable number.

    Args:
        model: the model of ``structure``.
        structure: the groups whose units get a number.

    Attributes:
        scale: the numbers of all units.
        kept: whether each number has not been set to 0.
        left: units of each group after the last pruning.
    """

    kept: Tensor

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        self.model, self.structure = model, structure
        self.sizes = [group.size for group in structure]
        where = next(model.parameters()).device
        self.scale = nn.Parameter(torch.ones(sum(self.sizes), device=where))
        self.register_buffer("kept", torch.ones(sum(self.sizes), dtype=torch.bool, device=where))
        self.left: dict[str, int] = {}

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the model with scaled units."""
        folded = fold(self.model, self.structure, self._opening(), slim=True)
        return functional_call(self.model, folded, (), inputs)

    def mask(self) -> Mask:
        """The units whose number has not been set to 0."""
        return Mask(
            {group.name: kept.cpu() for group, kept in zip(self.structure, self.kept.split(self.sizes), strict=True)}
        )

    @torch.no_grad()
    def prune(self, counts: Mapping[str, int]) -> None:
        """Set the smallest numbers to 0 until each group has ``counts`` units left; removed units stay removed."""
        if dict(counts) != self.left:
            self._remove(counts)
            self.left = dict(counts)
        self.scale.mul_(self.kept)

    def _remove(self, counts: Mapping[str, int]) -> None:
        units = zip(self.structure, self.scale.split(self.sizes), self.kept.split(self.sizes), strict=True)
        for group, scale, kept in units:
            size = scale.abs().masked_fill(~kept, -1.0)
            kept &= torch.zeros_like(kept).index_fill_(0, size.topk(counts[group.name]).indices, True)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """Multiply the numbers into the weights of the model, in place, and return it."""
        for name, value in fold(self.model, self.structure, self._opening()).items():
            self.model.get_parameter(name).copy_(value)
        return self.model

    def _opening(self) -> Opening:
        """The numbers as gates; a number that is 0 gets no gradient."""
        values = (self.scale * self.kept).split(self.sizes)
        fine: dict[str, Float[Tensor, " units"]] = {
            group.name: value for group, value in zip(self.structure, values, strict=True)
        }
        return Opening(fine, {name: self.scale.new_ones(()) for name in fine})


class ScalePruning(Objective):
    """Weights and numbers are trained together while the sparsity rises.

    Args:
        scaled: the trained module, made by the caller, who needs it after the training.
        how: the loss.
        allocation: units of each group at the end.
        begin: fraction of the steps after which pruning begins.
        end: fraction of the steps after which pruning ends.
        start: sparsity with which pruning begins.
        rate: constant learning rate of the numbers.
    """

    name = "pruning"

    def __init__(
        self,
        scaled: ScaledComponents,
        how: TaskOrDistillationLoss,
        allocation: Allocation,
        *,
        begin: float,
        end: float,
        start: float,
        rate: float,
    ) -> None:
        self.scaled, self.how, self.allocation = scaled, how, allocation
        self.begin, self.end, self.start, self.rate = begin, end, start, rate

    def trained_module(self, model: nn.Module) -> ScaledComponents:
        """The module that was given, pruned to the first sparsity."""
        self.scaled.prune(self.left(0.0))
        return self.scaled

    def loss(self, model: nn.Module, inputs: Batch, step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return self.how.loss(model, inputs, self.scaled.model)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights by the schedule, numbers at their own constant rate."""
        return [
            {"params": list(self.clipped_parameters(model))},
            {"params": [self.scaled.scale], "lr": self.rate, CONSTANT_RATE: True},
        ]

    def clipped_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The weights alone."""
        return (parameter for parameter in self.scaled.model.parameters() if parameter.requires_grad)

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Prune to the sparsity of this step."""
        self.scaled.prune(self.left(step / steps))

    def left(self, now: float) -> Allocation:
        """Units of each group after a fraction ``now`` of the steps."""
        left = {}
        for group in self.scaled.structure:
            final = 1 - self.allocation[group.name] / group.size
            gone = cubic_sparsity(now, self.begin, self.end, final, self.start) if final > 0 else 0.0
            left[group.name] = max(self.allocation[group.name], group.size - round(gone * group.size))
        return left
