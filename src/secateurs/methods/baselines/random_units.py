"""Random structured pruning, the lower bound: remove random units without a refit, the same fraction of every group."""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.base import ForwardPasses
from secateurs.methods.baselines._ranked import RankedFitted
from secateurs.methods.baselines._settings import RandomUnitsSettings
from secateurs.structure.families import discover
from secateurs.structure.structure import Structure

__all__ = ["METHOD", "RandomUnits"]


@dataclass(frozen=True)
class RandomUnits(RandomUnitsSettings):
    """Keep random units, drawn with the seed of the run."""

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons."""
        return discover(model)

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: no data is needed."""
        return ForwardPasses()

    def fit(self, context: PruneContext) -> RankedFitted:
        """Draw one score per unit. A smaller model then keeps a subset of the units of a larger one."""
        generator = torch.Generator().manual_seed(context.seed)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in context.structure}
        return RankedFitted(context, scores)


METHOD = RandomUnits
