"""``StepFitted``: a method that was fitted to a pruned model, in the groups of the dense model."""

from __future__ import annotations

from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.base import Fitted
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget
from secateurs.training.objective import Objective

__all__ = ["StepFitted"]


class StepFitted(Fitted):
    """Adds groups that are gone to allocations, with 0 units, and leaves them out of what the method is asked for.

    Budgets, contract and report then need no other structure than that of the dense model. Masks stay those of the model
    that is pruned.

    Args:
        fitted: the method, fitted to the model of ``context``.
        context: the model that is pruned, with the sizes of the dense model.
    """

    def __init__(self, fitted: Fitted, context: PruneContext) -> None:
        self.fitted, self.context = fitted, context

    def allocate(self, budget: Budget) -> Allocation:
        """See ``Fitted.allocate``."""
        return {**dict.fromkeys(self.context.dense_sizes, 0), **self.fitted.allocate(budget)}

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """See ``Fitted.apply``."""
        return self.fitted.apply({name: allocation[name] for name in self.context.structure.sizes}, folder)

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> Objective:
        """See ``Fitted.finetune``."""
        return self.fitted.finetune(teacher, mask, folder)
