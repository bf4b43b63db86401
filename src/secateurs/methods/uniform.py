"""ZipLM's units and refitted weights without its search: the same fraction of every group.

The difference to ``ziplm`` is what the search is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from secateurs.families import discover
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._even import even_counts
from secateurs.methods._one_shot import OneShot, OneShotPruner
from secateurs.methods.ziplm import ZipLM, ZipLMPruner
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["METHOD", "Uniform"]


@dataclass(frozen=True)
class Uniform(OneShot):
    """Uniform allocation over ZipLM's level database."""

    name: ClassVar[str] = "uniform"

    def structure(self, model: nn.Module) -> Structure:
        return discover(model)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """Calibration, and the fit of each target."""
        whole = ZipLM(steps=0, rounds=0).forwards(structure, samples, rows, batch)
        return {"prepare": whole["prepare"] / 2, "target": 3.0 * samples}

    def prepare(self, job: Job) -> UniformPruner:
        """The same level database as ZipLM's default."""
        return UniformPruner(job)


class UniformPruner(OneShotPruner):
    """Installs the levels of equal fractions."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ziplm = ZipLMPruner(ZipLM(), job)

    def choose(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``."""
        return self.ziplm.mask(even_counts(self.job.structure, budget))

    def install(self, mask: Mask, folder: str) -> Mask:
        """ZipLM's last fit."""
        return self.ziplm.install(mask, folder)


METHOD = Uniform
