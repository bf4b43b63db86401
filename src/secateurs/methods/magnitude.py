"""Structured magnitude pruning, the baseline: drop the units with the smallest weights, refit nothing.

The score of a unit is the squared L2 norm of everything its cuts own (rows, biases and output columns). Every group
keeps the same fraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.families import discover
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._even import even_counts
from secateurs.methods._one_shot import OneShot, OneShotPruner
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group, Structure
from secateurs.target import Budget

__all__ = ["METHOD", "Magnitude"]


@dataclass(frozen=True)
class Magnitude(OneShot):
    """Keep the units with the largest weights."""

    name: ClassVar[str] = "magnitude"

    def structure(self, model: nn.Module) -> Structure:
        return discover(model)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """No data is needed."""
        return {"prepare": 0.0, "target": 0.0}

    def prepare(self, job: Job) -> RankedPruner:
        """Score every unit."""
        return RankedPruner(job, {group.name: _norms(job.model, group) for group in job.structure})


class RankedPruner(OneShotPruner):
    """Keeps the units with the highest scores, the same fraction of every group."""

    def __init__(self, job: Job, scores: dict[str, Float[Tensor, " units"]]) -> None:
        self.job, self.scores = job, scores
        self.stitch = Stitch(job.model, job.structure)

    def choose(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``."""
        counts = even_counts(self.job.structure, budget)
        units = {name: self.scores[name].topk(kept).indices.cpu() for name, kept in counts.items()}
        return Mask.from_units(self.job.structure, units)

    def install(self, mask: Mask, folder: str) -> Mask:
        """The dense weights of what is kept."""
        for group in self.job.structure:
            kept = mask.units(group.name)
            columns = (kept[:, None] * group.width + torch.arange(group.width)).flatten()
            weight = self.stitch.weight(group.name)
            self.stitch.mask(group.name, kept, weight[:, columns.to(weight.device)], self.stitch.bias(group.name))
        return mask


def _norms(model: nn.Module, group: Group) -> Float[Tensor, " units"]:
    total = torch.zeros(group.size, dtype=torch.float64)
    for cut in group.cuts:
        owned = model.get_parameter(cut.parameter).detach().movedim(cut.dim, 0)
        owned = owned[cut.offset : cut.offset + group.size * cut.width]
        total += owned.double().reshape(group.size, -1).pow(2).sum(1).cpu()
    return total


METHOD = Magnitude
