"""The speed-up contract: a model is done when its saved folder is *measured* to be fast enough in fresh processes.

    steer:    allocate -> time the dense model shrunk to those shapes -> correct the overhead of the latency table
    build:    fit, shrink, fine-tune and save the model (by the caller)
    confirm:  time the saved folder against the dense model in fresh processes -> met, or steer again

Time depends on shapes and not on weights, so nothing is fitted while the contract steers. Timings that steer choose the
result, so they are never reported as its speed-up: the reported one is the confirmation, whose number of processes is fixed
beforehand. The contract is met if the lower end of the confirmed 95 % interval is at most ``SHORTFALL`` below the target.
Every attempt leaves its allocation and its timings on disk, so that a resumed run gets the same result.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from secateurs.distributed import first
from secateurs.errors import TargetUnreachable
from secateurs.latency.compare import Measurement, Speed
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.pipeline.attempt import Attempt, read_attempts, write_attempt
from secateurs.structure.allocation import Allocation
from secateurs.structure.target import Budget, Speedup

__all__ = ["CONFIRMATIONS", "STEERING_PROCESSES", "Contract", "is_met"]

logger = logging.getLogger(__name__)

SHORTFALL = 0.01
"""Largest shortfall of the lower end of the confirmed interval, relative to the target, with which the contract is met."""

STEERING_PROCESSES = 3
"""Fresh processes that time one attempt while the contract steers."""

STEERING_ATTEMPTS = 6
"""Largest number of allocations that are timed before a model is built."""

CONFIRMATIONS = 3
"""Largest number of models that are built and confirmed for one target."""

EXPECTED_SPREAD = 0.01
"""Standard deviation between processes, relative, that is assumed before any attempt is timed."""

EXPECTED_WEIGHT = 2
"""Degrees of freedom that the assumed spread counts as beside the timed attempts."""

PASS_QUANTILE = 1.28
"""The contract aims so high that a confirmation passes with a probability of 90 %: this quantile of the normal law."""

STEP = 0.004
"""If a correction is smaller than the distance between two levels, the budget moves on by this fraction until it is not."""

TimeShapes = Callable[[Allocation], Speed]
"""Speed-up of the dense model shrunk to an allocation, in ``STEERING_PROCESSES`` fresh processes."""


def is_met(target: float, confirmed: Speed) -> bool:
    """Whether a confirmed speed-up keeps the contract.

    Args:
        target: the speed-up that was asked for.
        confirmed: speed-up with its interval over fresh processes.
    """
    return confirmed.low >= (1 - SHORTFALL) * target


class Contract:
    """The attempts to meet one target.

    Args:
        target: the speed-up that was asked for; ``None`` for a target that is not a time: its first allocation is taken.
        budget: the budget of the target.
        table: latency table of this model; its overhead is corrected after a miss.
        fitted: the fitted method.
        time_shapes: times the dense model shrunk to an allocation.
        folder: folder of the attempts of this target.
        tolerance: how much faster than asked a result may be, as a fraction, while the contract steers.
        processes: number of fresh processes of a confirmation.
        enforce: ``False`` takes the first allocation: the table was measured elsewhere, and timings here cannot judge it.
    """

    def __init__(
        self,
        target: Speedup | None,
        budget: Budget,
        table: LatencyTable,
        fitted: Fitted,
        time_shapes: TimeShapes,
        folder: Path,
        *,
        tolerance: float,
        processes: int,
        enforce: bool = True,
    ) -> None:
        self.target, self.budget, self.table, self.fitted = target if enforce else None, budget, table, fitted
        self.time_shapes, self.folder = time_shapes, folder
        self.tolerance, self.processes = tolerance, processes
        # By the first process, since another one that comes later would find what the first has written meanwhile.
        self.attempts = first(lambda: read_attempts(folder))

    @property
    def built(self) -> list[Attempt]:
        """The attempts that were built and confirmed."""
        return [attempt for attempt in self.attempts if attempt.confirmed is not None]

    @property
    def ended(self) -> bool:
        """Whether no further model is to be built."""
        built = self.built
        return bool(built) and (self.target is None or bool(built[-1].met) or len(built) >= CONFIRMATIONS)

    def settle(self) -> Attempt:
        """The attempt to build next.

        Returns:
            The last attempt that is fast enough by steering, or else the fastest one. If no allocation is left, or none
            that seems faster than the model that just missed: the attempt that was built last.

        Raises:
            TargetUnreachable: no choice of levels fits the budget of the target.
        """
        if self.ended:  # resumed after the confirmation
            return self.built[-1]
        if self.target is None:
            if not self.attempts:
                self._add(self.fitted.allocate(self.budget), steer=False)
            return self.attempts[0]
        since = max((attempt.number for attempt in self.built), default=0)
        while not self._is_settled(self.attempts[since:]):
            allocation = self._next()
            if allocation is None:
                break
            self._add(allocation, steer=True)
        best = self._best(self.attempts[since:])
        missed = self.built[-1] if self.built else None
        if missed is not None and (best is None or _known(best) <= _known(missed)):
            return missed
        assert best is not None, "without an attempt, the first allocation raised"
        return best

    def confirm(self, attempt: Attempt, measured: Measurement) -> Attempt:
        """Write the confirmation of an attempt that was built.

        Args:
            attempt: the attempt that ``settle`` returned.
            measured: timings of the saved model, ``"pruned"``, and ``"dense"`` in ``processes`` fresh processes.
        """
        speed = measured.speedups["pruned"]
        confirmed = dataclasses.replace(
            attempt,
            confirmed=speed,
            latency_ms=measured.timings["pruned"].latency_ms,
            dense_latency_ms=measured.timings["dense"].latency_ms,
            met=None if self.target is None else is_met(self.target.value, speed),
            generation=measured.timings["pruned"].generation,
            dense_generation=measured.timings["dense"].generation,
        )
        self.attempts[attempt.number - 1] = confirmed
        write_attempt(self.folder, confirmed)
        logger.info("attempt %d confirmed: %.3fx (%.3f to %.3f)", attempt.number, speed.median, speed.low, speed.high)
        return confirmed

    @property
    def aim(self) -> float:
        """Speed-up to aim at, so that a confirmation passes with a probability of 90 %; never less than the target.

        With ``s`` the standard deviation between processes, ``n`` processes of a confirmation and ``m`` that steer, the
        lower end of the confirmed interval lies ``t(n - 1) s / sqrt(n)`` below its centre, and the centre is known before
        with a standard error of ``s sqrt(1/n + 1/m)``.
        """
        from scipy.stats import t

        assert self.target is not None
        spread, count = self._spread(), self.processes
        half = float(t.ppf(0.975, count - 1)) * spread / count**0.5
        slack = PASS_QUANTILE * spread * (1 / count + 1 / STEERING_PROCESSES) ** 0.5
        aim = self.target.value * max(1.0, (1 - SHORTFALL) * math.exp(half + slack))
        # A model that missed was too slow, whatever its median: the next one must be faster.
        return max([aim, *((1 + STEP) * _known(missed) for missed in self.built if missed.met is False)])

    def _spread(self) -> float:
        """Standard deviation of the logarithm of the speed-up between processes, pooled over all timings so far."""
        total, weight = EXPECTED_WEIGHT * EXPECTED_SPREAD**2, float(EXPECTED_WEIGHT)
        for attempt in self.attempts:
            for speed in (attempt.steering, attempt.confirmed):
                if speed is not None and len(speed.processes) > 1:
                    logs = [math.log(ratio) for ratio in speed.processes]
                    mean = sum(logs) / len(logs)
                    total += sum((value - mean) ** 2 for value in logs)
                    weight += len(logs) - 1
        return (total / weight) ** 0.5

    def _is_settled(self, tried: Sequence[Attempt]) -> bool:
        """Whether the last of the attempts of this round can be built, or the round has no attempt left."""
        if not tried:
            return False
        return len(tried) >= STEERING_ATTEMPTS or self._fits(tried[-1])

    def _fits(self, attempt: Attempt) -> bool:
        assert self.target is not None
        assert attempt.steering is not None
        aim = self.aim
        upper = max(self.target.value * (1 + self.tolerance), aim * (1 + self.tolerance / 2))
        return aim <= attempt.steering.median <= upper

    def _best(self, tried: Sequence[Attempt]) -> Attempt | None:
        speeds = {attempt.number: attempt.steering.median for attempt in tried if attempt.steering is not None}
        fitting = [attempt for attempt in tried if self._fits(attempt)]
        fast = [attempt for attempt in tried if speeds[attempt.number] >= self.aim]
        if fitting:
            return fitting[-1]
        if fast:
            return min(fast, key=lambda attempt: speeds[attempt.number])
        return max(tried, key=lambda attempt: speeds[attempt.number], default=None)

    def _next(self) -> Allocation | None:
        """The allocation for the corrected budget; ``None`` if it is one of those that were timed already."""
        assert self.target is not None
        aim = self.aim
        if not self.attempts:
            return self._first(aim)
        limit = self.table.dense_ms / (aim * (1 + STEP))
        corrected = self.table.corrected(self._table_error())
        # Too slow: shrink the budget until another allocation is found. Too fast: let it grow.
        last = self.attempts[-1].speed
        direction = -1 if last is not None and last.median < aim else 1
        for step in range(10):
            budget = Budget(limit * (1 + direction * STEP * step), corrected, self.target.folder)
            try:
                allocation = self.fitted.allocate(budget)
            except TargetUnreachable:
                return None
            if all(allocation != attempt.allocation for attempt in self.attempts):
                return allocation
        return None

    def _first(self, aim: float) -> Allocation:
        """The allocation that the table predicts to be as fast as the aim, or as the target if the aim is out of reach."""
        assert self.target is not None
        try:
            return self.fitted.allocate(
                dataclasses.replace(self.budget, limit=self.budget.limit * self.target.value / aim)
            )
        except TargetUnreachable:
            return self.fitted.allocate(self.budget)

    def _table_error(self) -> float:
        """What the table leaves out, in ms on its own scale.

        ``dense_ms / measured speed-up`` is the time that the table should have predicted for an attempt. Later attempts are
        nearer to the target: each counts twice as much as the one before it, and in proportion to its processes.
        """
        errors, weights = [], []
        for attempt in self.attempts:
            if attempt.speed is not None:
                errors.append(self.table.dense_ms / attempt.speed.median - float(self.table(attempt.allocation)))
                weights.append(2.0**attempt.number * max(1, len(attempt.speed.processes)))
        return sum(error * weight for error, weight in zip(errors, weights, strict=True)) / sum(weights)

    def _add(self, allocation: Allocation, *, steer: bool) -> None:
        """Time an allocation if asked for, and write the attempt to disk."""
        number = len(self.attempts) + 1
        steering = self.time_shapes(allocation) if steer else None
        attempt = Attempt(number, allocation, self.table.speedup(allocation), steering)
        if steering is not None:
            logger.info("attempt %d: %.3fx by steering, aim %.3fx", number, steering.median, self.aim)
        self.attempts.append(attempt)
        write_attempt(self.folder, attempt)


def _known(attempt: Attempt) -> float:
    """What is known best about the speed-up of an attempt that was timed."""
    assert attempt.speed is not None
    return attempt.speed.median
