"""What ZipLM and its baselines share: levels put into the live model, and how far its outputs then move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.allocation import Menu
from secateurs.arithmetic import fast
from secateurs.cost import ParameterCost
from secateurs.job import Job
from secateurs.latency_table import LatencyTable
from secateurs.layers import layer_paths
from secateurs.stages.levels import Level, Projection
from secateurs.stages.replay import Replay
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group, Kind, Structure
from secateurs.tasks import model_inputs

__all__ = ["Objective", "Stitched", "menus", "projections"]


def projections(stitch: Stitch) -> dict[str, Projection]:
    """The dense output projection of every group, on the CPU: that is where levels are worked out."""
    found = {}
    for group in stitch.structure:
        bias = stitch.bias(group.name)
        found[group.name] = Projection(stitch.weight(group.name).cpu(), None if bias is None else bias.cpu())
    return found


def menus(
    structure: Structure, cost: LatencyTable | ParameterCost, errors: Mapping[str, Tensor], ratio: float, snap: bool
) -> dict[str, Menu]:
    """The levels on offer: every head count; widths shrinking by ``ratio`` a step, snapped to the cost's multiple."""
    offered = {}
    for group in structure:
        multiple = cost.multiple(group.name) if snap else 1
        kept = _grid(group, ratio, multiple)
        error = errors[group.name].tolist()
        offered[group.name] = Menu(
            kept, tuple(cost.group_cost(group.name, count) for count in kept), tuple(error[count] for count in kept)
        )
    return offered


def _grid(group: Group, ratio: float, multiple: int) -> tuple[int, ...]:
    if group.kind is Kind.HEAD:
        return tuple(range(group.size + 1))
    counts, width = {0, group.size}, float(group.size)
    while width > max(1, 0.01 * group.size):  # the paper stops at 99 % removed
        counts.add(min(group.size, max(1, round(width / multiple)) * multiple) if multiple > 1 else round(width))
        width *= ratio
    return tuple(sorted(counts))


class Levels(Protocol):
    """What there is to choose from."""

    def level(self, name: str, number: int, /) -> Level:
        """The level that stands on a menu under this number."""
        ...


class Stitched:
    """The live model at some profile; only what differs is swapped."""

    def __init__(self, stitch: Stitch, levels: Levels) -> None:
        self.stitch = stitch
        self.levels = levels
        self.invalidate()

    def invalidate(self) -> None:
        """Something else was installed: no group is at a level of the database, and parameters besides may differ."""
        self.profile: dict[str, int] | None = None

    def apply(self, profile: Mapping[str, int]) -> None:
        """Put the model at ``profile``."""
        if self.profile is None:
            self.stitch.reset_all()
            self.profile = self.stitch.structure.sizes
        for name, kept in profile.items():
            if self.profile[name] != kept:
                level = self.levels.level(name, kept)
                self.stitch.install(name, level.units, level.weight, level.bias, level.feeders)
                self.profile[name] = kept


class Objective:
    """Divergence of the model at a profile from its dense self, by row, on some batches.

    Args:
        stitched: the live model (shared by all objectives).
        job: task and device.
        batches: the texts.
        score: ``(task, signal, dense signal) -> rows``; the task's divergence by default.
    """

    def __init__(self, stitched: Stitched, job: Job, batches: Sequence[dict[str, Tensor]]) -> None:
        self.stitched = stitched
        self.task = job.task
        structure = job.structure
        self.layer_of = {group.name: group.layer for group in structure}
        self.replay = Replay(job.model, layer_paths(job.model, structure), batches, job.device, quick=True)
        stitched.apply(structure.sizes)
        self.settled = structure.sizes
        self.teacher = self.replay.record(self._signal)
        self._seen: dict[tuple[int, ...], Float[Tensor, " rows"]] = {}

    def settle(self, profile: Mapping[str, int]) -> None:
        """Make ``profile`` the incumbent: candidates are run from the first layer in which they differ from it."""
        self.stitched.apply(profile)
        self.settled = dict(profile)
        self._seen[tuple(profile.values())] = self._rows(self.replay.record(self._signal))

    def __call__(self, profile: Mapping[str, int]) -> Float[Tensor, " rows"]:
        key = tuple(profile.values())
        if key not in self._seen:
            self.stitched.apply(profile)
            changed = {self.layer_of[name] for name, kept in profile.items() if kept != self.settled[name]}
            start = min(changed, key=self.replay.position.__getitem__) if changed else None
            self._seen[key] = self._rows(self.replay.run(self._signal, start))
        return self._seen[key]

    def now(self) -> Float[Tensor, " rows"]:
        """Of the model as it is, whatever was installed."""
        return self._rows(self.replay.run(self._signal))

    def _signal(self, outputs: Any, batch: dict[str, Tensor]) -> Tensor:
        return self.task.signal(outputs, batch)

    def _rows(self, signals: Any) -> Float[Tensor, " rows"]:
        pairs = zip(signals, self.teacher, strict=True)
        return torch.cat([self.task.divergence(ours, theirs).float().cpu() for ours, theirs in pairs])


def task_loss(
    stitched: Stitched, job: Job, batches: Sequence[dict[str, Tensor]]
) -> Callable[[Mapping[str, int]], Tensor]:
    """The paper's objective: the task's own loss, by batch."""

    def loss(profile: Mapping[str, int]) -> Tensor:
        stitched.apply(profile)
        values = []
        with torch.inference_mode(), fast(job.device):
            for batch in batches:
                inputs = {name: value.to(job.device) for name, value in batch.items()}
                values.append(job.task.loss(job.model(**model_inputs(inputs)), inputs).float().cpu())
        return torch.stack(values)

    return loss
