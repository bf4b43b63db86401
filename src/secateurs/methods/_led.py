"""A method that does not train, in several processes: the first does its work, the others hear what it chose."""

from __future__ import annotations

from secateurs.job import Job, Method, Pruner
from secateurs.mask import Mask
from secateurs.methods._one_shot import OneShotPruner
from secateurs.processes import first
from secateurs.target import Budget

__all__ = ["Led"]


class Led(OneShotPruner):
    """What ``method.prepare`` returns, led by the first process.

    The weights that it installs are in the first process alone. Recovery starts from those everywhere: what is trained in
    several processes begins as it is in the first.

    Args:
        method: one that does not train.
        job: the same in every process.
    """

    def __init__(self, method: Method, job: Job) -> None:
        self.job = job
        self._own: Pruner | None = None
        first(lambda: self._prepare(method))

    def choose(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``."""
        return first(lambda: self._leader.choose(budget))

    def install(self, mask: Mask, folder: str) -> Mask:
        """See ``secateurs.job.Pruner``."""
        return first(lambda: self._leader.install(mask, folder))

    def _prepare(self, method: Method) -> None:
        self._own = method.prepare(self.job)

    @property
    def _leader(self) -> Pruner:
        assert self._own is not None
        return self._own
