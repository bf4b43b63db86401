"""ZipLM's units and refitted weights without its search: the same fraction of every group.

The difference to ``ziplm`` shows what the search is worth.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.base import ForwardPasses, OneShotFitted
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.methods.baselines._settings import UniformSettings
from secateurs.methods.ziplm import ZipLM
from secateurs.structure.allocation import Allocation
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.tasks.roles import RoleSizes

__all__ = ["METHOD", "Uniform"]


@dataclass(frozen=True)
class Uniform(UniformSettings):
    """Uniform allocation over ZipLM's level database."""

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons."""
        return discover(model)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: texts to fit, and none to search."""
        return RoleSizes(samples)

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: calibration, and the refit of each target."""
        searched = ZipLM(steps=0, rounds=0).forward_passes(structure, samples, rows, batch)
        return ForwardPasses(searched.fit / 2, 3.0 * samples)

    def fit(self, context: PruneContext) -> FittedUniform:
        """Build the level database of ZipLM's default."""
        return FittedUniform(context)


class FittedUniform(OneShotFitted):
    """Takes the levels of equal fractions.

    Args:
        context: model, texts and task.
    """

    def __init__(self, context: PruneContext) -> None:
        self.context = context
        self.ziplm = ZipLM().fit(context)

    def allocate(self, budget: Budget) -> Allocation:
        """The same fraction of every group."""
        return even_counts(self.context.structure, budget, dense_sizes=self.context.dense_sizes)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """ZipLM's sequential refit."""
        return self.ziplm.apply(allocation, folder)


METHOD = Uniform
