"""Random structured pruning, the floor: drop units by lot, refit nothing, keep the same fraction of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from secateurs.families import discover
from secateurs.job import Job
from secateurs.methods._one_shot import OneShot
from secateurs.methods.magnitude import RankedPruner
from secateurs.structure import Structure

__all__ = ["METHOD", "Random"]


@dataclass(frozen=True)
class Random(OneShot):
    """Keep units by lot; the seed of the run decides."""

    name: ClassVar[str] = "random"

    def structure(self, model: nn.Module) -> Structure:
        return discover(model)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """No data is needed."""
        return {"prepare": 0.0, "target": 0.0}

    def prepare(self, job: Job) -> RankedPruner:
        """Draw one score a unit, so that a smaller model keeps a subset of a larger one's units."""
        generator = torch.Generator().manual_seed(job.seed)
        return RankedPruner(job, {group.name: torch.rand(group.size, generator=generator) for group in job.structure})


METHOD = Random
