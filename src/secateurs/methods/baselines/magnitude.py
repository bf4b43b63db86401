"""Structured magnitude pruning: remove the units with the smallest weights, without a refit.

The score of a unit is the squared L2 norm of everything that is cut with it (rows, biases and output columns). Every group
keeps the same fraction.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.methods.base import ForwardPasses
from secateurs.methods.baselines._ranked import RankedFitted
from secateurs.methods.baselines._settings import MagnitudeSettings
from secateurs.structure.families import discover
from secateurs.structure.structure import Group, Structure

__all__ = ["METHOD", "Magnitude"]


@dataclass(frozen=True)
class Magnitude(MagnitudeSettings):
    """Keep the units with the largest weights."""

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons."""
        return discover(model)

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: no data is needed."""
        return ForwardPasses()

    def fit(self, context: PruneContext) -> RankedFitted:
        """Score every unit."""
        scores = {group.name: _squared_norms(context.model, group) for group in context.structure}
        return RankedFitted(context, scores)


def _squared_norms(model: nn.Module, group: Group) -> Float[Tensor, " units"]:
    total = torch.zeros(group.size, dtype=torch.float64)
    for cut in group.cuts:
        owned = model.get_parameter(cut.parameter).detach().movedim(cut.dim, 0)
        owned = owned[cut.offset : cut.offset + group.size * cut.width]
        total += owned.double().reshape(group.size, -1).pow(2).sum(1).cpu()
    return total


METHOD = Magnitude
