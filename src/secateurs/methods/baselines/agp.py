"""AGP over ranks, the structured baseline of FLOP: gradual magnitude pruning of components, the same sparsity everywhere.

Every matrix is a pair of factors with a trainable number per component, ``W = P diag(m) Q``. While weights and numbers are
trained together, the smallest numbers are set to 0 by the cubic schedule of automated gradual pruning (Zhu and Gupta 2017).
Every matrix ends with the same fraction of its components. The difference to FLOP shows what a learned allocation is worth.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.baselines._gradual import GradualFitted
from secateurs.methods.baselines._scaled_components import ScaledComponents, ScalePruning
from secateurs.methods.baselines._settings import AGPSettings
from secateurs.methods.flop.components import component_groups, with_pairs
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget

__all__ = ["AGP", "METHOD"]


@dataclass(frozen=True)
class AGP(AGPSettings):
    """Gradual magnitude pruning of ranks; its fields are those of ``AGPSettings``."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """A copy whose matrices are pairs of factors."""
        return with_pairs(model, self.matrices)

    def structure(self, model: nn.Module) -> Structure:
        """The components of every pair."""
        return component_groups(model, self.matrices)

    def fit(self, context: PruneContext) -> FittedAGP:
        """Keep the dense weights: every target is learned from them."""
        return FittedAGP(self, context)


class FittedAGP(GradualFitted[ScaledComponents]):
    """Learns which components are kept, for each target from the dense model."""

    settings: AGP

    def new_learner(self) -> ScaledComponents:
        """See ``GradualFitted``."""
        return ScaledComponents(self.context.model, self.context.structure)

    def objective(self, learner: ScaledComponents, budget: Budget, allocation: Allocation) -> ScalePruning:
        """See ``GradualFitted``."""
        how = self.settings
        return ScalePruning(
            learner, self.loss, allocation, begin=how.begin, end=how.end, start=how.start, rate=how.scale_rate
        )

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """The learned weights, with the numbers multiplied in."""
        learner = self.trained_learner(folder)
        learner.folded()
        return learner.mask()


METHOD = AGP
