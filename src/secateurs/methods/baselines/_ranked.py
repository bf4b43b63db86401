"""``RankedFitted``: keeps the units with the highest scores, the same fraction of every group, without a refit."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.methods.base import OneShotFitted
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.oneshot.levels import Level
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget

__all__ = ["RankedFitted"]


class RankedFitted(OneShotFitted):
    """A fitted method that ranks units by a score.

    Args:
        context: the model.
        scores: group name -> one score per unit; the highest are kept.
    """

    def __init__(self, context: PruneContext, scores: dict[str, Float[Tensor, " units"]]) -> None:
        self.context, self.scores = context, scores
        self.stitch = Stitch(context.model, context.structure)

    def allocate(self, budget: Budget) -> Allocation:
        """The same fraction of every group."""
        return even_counts(self.context.structure, budget, dense_sizes=self.context.dense_sizes)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """The dense weights of the units with the highest scores."""
        structure = self.context.structure
        units = {name: self.scores[name].topk(kept).indices.cpu() for name, kept in allocation.items()}
        mask = Mask.from_units(structure, units)
        for group in structure:
            kept = mask.units(group.name)
            columns = (kept[:, None] * group.width + torch.arange(group.width)).flatten()
            weight = self.stitch.weight(group.name)
            level = Level(kept, weight[:, columns.to(weight.device)], self.stitch.bias(group.name))
            self.stitch.mask(group.name, level)
        return mask
