"""What the methods that do not train have in common: recovery, if it is asked for, is plain distillation."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from secateurs.job import Job, Pruner, Recovering
from secateurs.mask import Mask
from secateurs.stages.distill import SquareHead

__all__ = ["OneShot", "OneShotPruner"]


class OneShot:
    """A method that takes a model as it is."""

    trains: ClassVar[bool] = False
    by_parameters: ClassVar[bool] = False
    by_time: ClassVar[bool] = True
    recovering: ClassVar[Recovering] = Recovering()

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def check(self, job: Job) -> None:
        """Any model with a structure will do."""


class OneShotPruner(Pruner):
    """A pruner whose results are recovered layer by layer: none of its layers has moved."""

    job: Job

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> SquareHead:
        """See ``secateurs.job.Pruner``."""
        return SquareHead(teacher, self.job.task)
