"""``FLOP``: the method as the pipeline sees it."""

from __future__ import annotations

from dataclasses import replace

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.base import ForwardPasses
from secateurs.methods.flop.components import component_groups, with_pairs
from secateurs.methods.flop.settings import PRESETS, FLOPSettings
from secateurs.methods.flop.steps import FittedFLOP, fit_factors
from secateurs.structure.structure import Structure
from secateurs.tasks.roles import RoleSizes

__all__ = ["METHOD", "PRESETS", "FLOP"]


@dataclass(frozen=True)
class FLOP(FLOPSettings):
    """The rank of every matrix learned together with the weights; its fields are those of ``FLOPSettings``.

    Every matrix of attention and feed-forward blocks becomes a sum of rank-1 components with a gate each,
    ``W = P diag(z) Q``. The target is a sparsity relative to the *dense* model or, beyond the paper, a speed-up.
    """

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """A copy with a pair of factors in the place of every matrix, at first those of the matrix alone.

        Raises:
            RecipeError: a pattern names no matrix, or the rank is larger than that of a matrix.
            UnsupportedModelError: there are no matrices.
        """
        init = "scratch" if self.init == "scratch" else "svd"
        return with_pairs(model, self.matrices, init=init, rank=self.rank or None)

    def structure(self, model: nn.Module) -> Structure:
        """The components of all pairs and, if all matrices are chosen, the widths of adaptive embeddings."""
        return component_groups(model, self.matrices)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``; ``init=aware`` fits the factors to texts."""
        sizes = super().role_sizes(samples)
        return replace(sizes, fit=samples) if self.init == "aware" else sizes

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``; ``init=aware`` runs the calibration texts once."""
        calibrated = 2.0 * samples if self.init == "aware" else 0.0
        return replace(super().forward_passes(structure, samples, rows, batch), fit=calibrated)

    def fit(self, context: PruneContext) -> FittedFLOP:
        """Fit the factors to the calibration texts, with ``init=aware``. Every target is then learned from them."""
        if self.init == "aware":
            fit_factors(context, self.matrices)
        return FittedFLOP(self, context)


METHOD = FLOP
