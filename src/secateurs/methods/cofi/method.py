"""``CoFi``: the method as the pipeline sees it."""

from __future__ import annotations

from dataclasses import replace

from pydantic.dataclasses import dataclass
from torch import nn

from secateurs.context import PruneContext
from secateurs.errors import RecipeError
from secateurs.gates.choices import EXAMINED_TEXTS
from secateurs.methods.base import ForwardPasses
from secateurs.methods.cofi.schedule import steps_and_rate
from secateurs.methods.cofi.settings import PRESETS, CoFiSettings
from secateurs.methods.cofi.steps import FittedCoFi, refuse_layer_matching
from secateurs.methods.ziplm import ZipLM
from secateurs.structure.families import discover
from secateurs.structure.structure import Structure
from secateurs.tasks.roles import RoleSizes

__all__ = ["METHOD", "PRESETS", "CoFi"]


@dataclass(frozen=True)
class CoFi(CoFiSettings):
    """Coarse and fine masks learned together, with layer-wise distillation; its fields are those of ``CoFiSettings``.

    A gate for every head and neuron (fine), for every attention and feed-forward block (coarse) and, if asked for, for every
    hidden dimension. The target is a sparsity (the paper) or, beyond the paper, a speed-up: the expected milliseconds by the
    latency table then take the place of the expected parameters.
    """

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """Heads, feed-forward neurons and, with ``hidden``, hidden dimensions."""
        return discover(model, hidden=self.hidden)

    def check(self, context: PruneContext) -> None:
        """See ``Method.check``: one stack of layers, enough steps, a hidden size that may change, a start that fits."""
        assert context.train is not None
        refuse_layer_matching(self, context)
        steps_and_rate(self, len(context.train), context.rows_a_step)  # pyright: ignore[reportArgumentType]
        if self.hidden and context.task.keeps_hidden_size:
            raise RecipeError(
                f"the outputs of {context.task.name.replace('_', '-')} are hidden states, whose size must stay; "
                "use --set hidden=false"
            )
        if self.start:
            context.task.body(context.model, self.start)  # pyright: ignore[reportArgumentType]

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: masks are compared during the training; ZipLM, if it gives the first masks, fits."""
        start = RoleSizes() if self.masks == "open" else ZipLM(finalists=0).role_sizes(samples)
        return replace(start, accept=max(start.accept, min(samples, EXAMINED_TEXTS)))

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``; a step is one pass of the teacher, three of the student, and work for the gates."""
        read = self.steps * batch if self.steps else self.epochs * rows
        learned = 4.5 * (read + self.prepruning * rows) + self.evaluations * min(samples, EXAMINED_TEXTS)
        if self.masks == "open":
            return ForwardPasses(0.0, learned)
        # Each target gets a ZipLM of its own; what targets share, the first leaves on disk for the others.
        start = ZipLM(finalists=0).forward_passes(structure, samples, rows, batch)
        return ForwardPasses(start.fit, learned + start.per_target)

    def fit(self, context: PruneContext) -> FittedCoFi:
        """Keep the dense model: every target is learned from it."""
        return FittedCoFi(self, context)


METHOD = CoFi
