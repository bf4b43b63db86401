"""``RankZeroFitted``: a method without training in a run of several processes. Rank 0 works and sends its answers."""

from __future__ import annotations

from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.errors import TargetUnreachable
from secateurs.methods.base import Fitted, Method, OneShotFitted
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget

__all__ = ["RankZeroFitted"]


class RankZeroFitted(OneShotFitted):
    """Fits a method on rank 0.

    The final weights exist on rank 0 alone. Fine-tuning starts from them everywhere, since a distributed training copies the
    weights of rank 0 to all ranks.

    Args:
        method: a method without training.
        context: the same in every process.
    """

    def __init__(self, method: Method, context: PruneContext) -> None:
        self.context = context
        self._fitted: Fitted | None = None
        first(lambda: self._fit(method))

    def allocate(self, budget: Budget) -> Allocation:
        """See ``Fitted.allocate``. Every process refuses an unreachable budget, since the contract may go on after it."""
        answer = first(lambda: self._allocation_or_refusal(budget))
        if isinstance(answer, TargetUnreachable):
            raise answer
        return answer

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """See ``Fitted.apply``."""
        return first(lambda: self._on_rank_zero().apply(allocation, folder))

    def _allocation_or_refusal(self, budget: Budget) -> Allocation | TargetUnreachable:
        try:
            return self._on_rank_zero().allocate(budget)
        except TargetUnreachable as refusal:
            return refusal

    def _fit(self, method: Method) -> None:
        self._fitted = method.fit(self.context)

    def _on_rank_zero(self) -> Fitted:
        assert self._fitted is not None
        return self._fitted
