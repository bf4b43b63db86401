"""Candidates of a search: any allocation put into the live model, and how far its outputs then are from the dense ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.numerics.precision import autocast_if_fast
from secateurs.oneshot.levels import Level
from secateurs.oneshot.replay import Replay
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.layers import layer_paths
from secateurs.tasks.base import Batch, model_inputs

__all__ = ["CandidateModel", "DivergenceObjective", "SearchObjective", "TaskLossObjective"]


class Levels(Protocol):
    """The levels that candidates are made of."""

    def level(self, name: str, number: int, /) -> Level:
        """The level of a group under a number of its options."""
        ...


class CandidateModel:
    """The live model at some allocation.

    Args:
        stitch: swaps the parameters of the live model.
        levels: the levels to choose from.
    """

    def __init__(self, stitch: Stitch, levels: Levels) -> None:
        self.stitch = stitch
        self.levels = levels
        self.invalidate()

    def invalidate(self) -> None:
        """Forget the allocation: something else than levels of the database was installed."""
        self.allocation: dict[str, int] | None = None

    def prepare(self, allocations: Sequence[Mapping[str, int]]) -> None:
        """Make the levels of several allocations group by group, so that each group is factorised once."""
        for name in self.stitch.structure.sizes:
            for kept in dict.fromkeys(one[name] for one in allocations):
                self.levels.level(name, kept)

    def apply(self, allocation: Mapping[str, int]) -> None:
        """Bring the model to ``allocation``; only groups that differ are swapped."""
        if self.allocation is None:
            self.stitch.reset_all()
            self.allocation = self.stitch.structure.sizes
        for name, kept in allocation.items():
            if self.allocation[name] != kept:
                self.stitch.install(name, self.levels.level(name, kept))
                self.allocation[name] = kept


class DivergenceObjective:
    """Divergence of the model at an allocation from the dense model, per row.

    Args:
        candidates: the live model (shared by all objectives).
        context: task, model and device.
        batches: texts on which outputs are compared.
        memory_bytes: memory for hidden states of the incumbent, from which candidates that differ in late layers start.
    """

    def __init__(
        self,
        candidates: CandidateModel,
        context: PruneContext,
        batches: Sequence[Batch],
        *,
        memory_bytes: float = 2e9,
    ) -> None:
        self.candidates = candidates
        self.task = context.task
        structure = candidates.stitch.structure
        self.layer_of = {group.name: group.layer for group in structure}
        layers = layer_paths(context.model, structure)
        self.replay = Replay(context.model, layers, batches, context.device, memory_bytes, quick=True)
        candidates.apply(structure.sizes)
        self.incumbent = structure.sizes
        self.teacher_outputs = self.replay.record(self.task.compared_outputs)
        self._seen: dict[tuple[int, ...], Float[Tensor, " rows"]] = {}

    def settle(self, allocation: Mapping[str, int]) -> None:
        """Make ``allocation`` the incumbent. Candidates then run from the first layer in which they differ from it."""
        self.candidates.apply(allocation)
        self.incumbent = dict(allocation)
        self._seen[tuple(allocation.values())] = self._rows(self.replay.record(self.task.compared_outputs))

    def __call__(self, allocation: Mapping[str, int]) -> Float[Tensor, " rows"]:
        """The divergence at ``allocation``, one value per row; remembered."""
        key = tuple(allocation.values())
        if key not in self._seen:
            self.candidates.apply(allocation)
            changed = {self.layer_of[name] for name, kept in allocation.items() if kept != self.incumbent[name]}
            start = min(changed, key=self.replay.position.__getitem__) if changed else None
            self._seen[key] = self._rows(self.replay.run(self.task.compared_outputs, start))
        return self._seen[key]

    def installed(self) -> Float[Tensor, " rows"]:
        """The divergence of whatever is installed in the live model now."""
        return self._rows(self.replay.run(self.task.compared_outputs))

    def _rows(self, outputs: Any) -> Float[Tensor, " rows"]:
        pairs = zip(outputs, self.teacher_outputs, strict=True)
        return torch.cat([self.task.divergence(ours, theirs).float().cpu() for ours, theirs in pairs])


class SearchObjective:
    """The objective on two disjoint sets of texts: one proposes candidates, the other accepts or rejects them.

    Args:
        candidates: the live model.
        context: task, model and device.
        search: batches that propose.
        held_out: batches that accept or reject.
    """

    def __init__(
        self,
        candidates: CandidateModel,
        context: PruneContext,
        search: Sequence[Batch],
        held_out: Sequence[Batch],
    ) -> None:
        self.search = DivergenceObjective(candidates, context, search)
        self.held_out = DivergenceObjective(candidates, context, held_out)

    def settle(self, allocation: Mapping[str, int]) -> None:
        """Make ``allocation`` the incumbent of both."""
        self.search.settle(allocation)
        self.held_out.settle(allocation)

    def installed(self) -> Float[Tensor, " rows"]:
        """The divergence of whatever is installed in the live model, on the texts of both."""
        return torch.cat([self.search.installed(), self.held_out.installed()])


class TaskLossObjective:
    """The paper's objective: the loss of the task at an allocation, per batch.

    Args:
        candidates: the live model.
        context: model, task and device.
        batches: calibration batches with labels.
    """

    def __init__(self, candidates: CandidateModel, context: PruneContext, batches: Sequence[Batch]) -> None:
        self.candidates, self.batches = candidates, batches
        self.model: nn.Module = context.model
        self.task, self.device = context.task, context.device

    def __call__(self, allocation: Mapping[str, int]) -> Float[Tensor, " batches"]:
        self.candidates.apply(allocation)
        values = []
        with torch.inference_mode(), autocast_if_fast(self.device):
            for batch in self.batches:
                inputs = {name: value.to(self.device) for name, value in batch.items()}
                values.append(self.task.loss(self.model(**model_inputs(inputs)), inputs).float().cpu())
        return torch.stack(values)
