"""AGP over ranks, the structured baseline of FLOP: gradual magnitude pruning of components, the same sparsity everywhere.

Every matrix is a pair of factors with a plain trainable number for every component, ``W = P diag(m) Q``. While weights
and numbers learn together the smallest numbers are set to 0, by the cubic schedule of automated gradual pruning (Zhu and
Gupta 2017); every matrix ends with the same part of its components. What FLOP's learned allocation is worth is the
difference to this.

How many components stay follows from the target alone, so nothing is trained before the shapes are settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from secateurs.errors import RecipeError
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._components import components, with_pairs
from secateurs.methods._gradual import Gradual, GradualPruner
from secateurs.methods._scales import GradualPruning, Scaled
from secateurs.structure import Structure

__all__ = ["AGP", "METHOD"]


@dataclass(frozen=True)
class AGP(Gradual):
    """Gradual magnitude pruning of ranks.

    Args:
        scale_rate: learning rate of the numbers that multiply components, constant.
    """

    name: ClassVar[str] = "agp"

    scale_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale_rate > 0:
            raise RecipeError(f"agp: scale_rate must be above 0, not {self.scale_rate:g}")

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """A copy whose matrices are pairs of factors."""
        return with_pairs(model, self.matrices)

    def structure(self, model: nn.Module) -> Structure:
        """The components of every pair."""
        return components(model, self.matrices)

    def prepare(self, job: Job) -> AGPPruner:
        """Nothing is shared: every target is learned from the dense model."""
        return AGPPruner(self, job)


class AGPPruner(GradualPruner):
    """Learns which components stay, for each target from the dense model."""

    how: AGP

    def learner(self) -> Scaled:
        """See ``GradualPruner``."""
        return Scaled(self.job.model, self.job.structure)

    def objective(self, learner: Any, counts: dict[str, int], folder: str) -> GradualPruning:
        """See ``GradualPruner``."""
        how = self.how
        return GradualPruning(
            learner, self.lesson, counts, begin=how.begin, end=how.end, start=how.start, rate=how.scale_rate
        )

    def install(self, mask: Mask, folder: str) -> Mask:
        """Learn, if that has not been done, and multiply the numbers in."""
        learner = self.learned(mask.counts, folder)
        learner.folded()
        return learner.mask()


METHOD = AGP
