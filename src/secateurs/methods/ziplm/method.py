"""``ZipLM``: the method as the pipeline sees it."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.methods.base import ForwardPasses
from secateurs.methods.ziplm.search import searches_by_gradient
from secateurs.methods.ziplm.settings import FINALIST_TEXTS, FINALISTS_FROM, PRESETS, ZipLMSettings
from secateurs.methods.ziplm.steps import FittedZipLM
from secateurs.structure.families import discover
from secateurs.structure.structure import Structure
from secateurs.surgery.low_rank_groups import with_low_rank_options
from secateurs.tasks.roles import RoleSizes

__all__ = ["METHOD", "PRESETS", "ZipLM"]

RACE_PASSES = 2.0
"""Forward passes of the texts that accept, in which the proposals of a search by gradients are compared."""


@dataclass(frozen=True)
class ZipLM(ZipLMSettings):
    """Inference-aware one-shot structured pruning; its fields are those of ``ZipLMSettings``."""

    def structure(self, model: nn.Module) -> Structure:
        """Heads and feed-forward neurons, and with ``allow=rank`` the ranks of their matrices. The hidden size stays."""
        return with_low_rank_options(model) if self.allow == "rank" else discover(model)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``. The search by loss has no step that accepts, and proposes on all texts of a search."""
        half = max(1, min(self.search_samples, samples // 2))
        if self.objective == "loss":
            return RoleSizes(samples, search=2 * half)
        return RoleSizes(samples, search=half, accept=half)

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``."""
        searched = self.role_sizes(samples).search
        gathered = samples * (
            3.5 if self.weighs_tokens else 2.5
        )  # forward, Gram matrices, and backward for the weights
        if self.objective == "loss":
            return ForwardPasses(gathered, (self.inits + self.steps) * searched * 0.6)
        # A probe starts at its own layer: half a pass on average; around an incumbent the model is smaller too.
        sweep = self.probes * len(structure.without_low_rank_options()) * searched * 0.5
        finalists = self.finalists * FINALIST_TEXTS if samples >= FINALISTS_FROM else 0
        refitted = 5.0 * (samples + finalists) if self.inputs == "sequential" else 0.0
        if searches_by_gradient(self, structure):
            responses = searched * (2.5 + 1.5 * self.directions)
            return ForwardPasses(gathered + responses, refitted + searched * RACE_PASSES)
        return ForwardPasses(gathered + sweep, (self.rounds * 0.6 * sweep + self.steps * searched * 0.5) + refitted)

    def fit(self, context: PruneContext) -> FittedZipLM:
        """Build the level database, or read the one that an earlier run of this folder left."""
        return FittedZipLM(self, context)


METHOD = ZipLM
