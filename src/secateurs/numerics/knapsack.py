"""Exact choice of one level per group: the least total cost within a time budget (a multiple-choice knapsack).

Dynamic programming over time in equal buckets, as in SPDY (Frantar, Alistarh 2022). Every time is rounded up to buckets, so
that the result keeps to the budget. A local search at the end uses the time that the rounding left unused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["Infeasible", "solve"]


class Infeasible(ValueError):
    """No choice of levels keeps to the budget.

    Attributes:
        smallest: smallest total time of any choice, in the unit of the times.
    """

    def __init__(self, smallest: float, budget: float) -> None:
        super().__init__(f"no choice takes less time than {smallest:g}, and the budget is {budget:g}")
        self.smallest = smallest


def solve(
    times: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, *, buckets: int = 10_000
) -> list[int]:
    """Choose the level of each group that minimises ``sum of costs`` under ``sum of times <= budget``.

    The result is optimal for times rounded up to multiples of ``budget / buckets``. A better choice can only be missed if
    the time it leaves unused is less than ``groups / buckets`` of the budget. Of levels of equal cost the faster is chosen.

    Args:
        times: time of each level, one list per group; groups may have different numbers of levels.
        costs: cost of each level, in the same layout; costs may be negative.
        budget: largest total time, in the unit of ``times``.
        buckets: number of equal time steps in the budget.

    Returns:
        The index of the chosen level of each group.

    Raises:
        Infeasible: the fastest level of every group together take longer than the budget.
        ValueError: the layouts differ, a group has no level, a number is not finite, a time is negative, or ``buckets`` is
            less than 1.
    """
    _check(times, costs, budget, buckets)
    fronts = [_undominated(group_times, group_costs) for group_times, group_costs in zip(times, costs, strict=True)]
    fastest = [front[0] for front in fronts]
    smallest = _total(times, fastest)
    if smallest > budget:
        raise Infeasible(smallest, budget)
    cheapest = [front[-1] for front in fronts]
    if _total(times, cheapest) <= budget:
        return cheapest
    # Floating-point error may push the total past the budget in its last digits; then a slightly smaller budget is tried.
    for tightened in (budget, budget * (1.0 - 1e-9)):
        chosen = _programme(times, costs, fronts, tightened, buckets)
        if chosen is not None and _total(times, chosen) <= budget:
            return _spend_slack(times, costs, fronts, budget, chosen)
    return _spend_slack(times, costs, fronts, budget, fastest)  # infeasible only because times were rounded up


def _check(times: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, buckets: int) -> None:
    if [len(group) for group in times] != [len(group) for group in costs]:
        raise ValueError("times and costs must list the same groups with the same levels")
    if any(not len(group) for group in times):
        raise ValueError("every group needs at least one level")
    if buckets < 1 or not math.isfinite(budget):
        raise ValueError(f"the budget must be finite and cut into at least one bucket, not {budget} into {buckets}")
    if not all(math.isfinite(value) for group in (*times, *costs) for value in group):
        raise ValueError("times and costs must be finite")
    if any(value < 0 for group in times for value in group):
        raise ValueError("times must not be negative")


def _undominated(times: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Levels on the Pareto front of time and cost, fastest first and therefore cheapest last."""
    front: list[int] = []
    for level in sorted(range(len(times)), key=lambda level: (times[level], costs[level], level)):
        if not front or costs[level] < costs[front[-1]]:
            front.append(level)
    return front


def _programme(
    times: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
    fronts: list[list[int]],
    budget: float,
    buckets: int,
) -> list[int] | None:
    """The optimal choice for the rounded times, or ``None`` if no choice keeps to the budget."""
    if budget <= 0:
        return None
    # Without the allowance, a time of exactly n buckets could become n + 1 by the rounding error of the division.
    allowance = 1e-9 / len(times)
    steps = [
        [
            math.ceil(group[level] / budget * buckets - allowance) if group[level] <= budget else buckets + 1
            for level in front
        ]
        for group, front in zip(times, fronts, strict=True)
    ]
    best: Float[np.ndarray, " buckets"] = np.zeros(buckets + 1)  # index: buckets used at most; value: least cost
    choices = np.zeros((len(times), buckets + 1), dtype=np.int32)
    for group, (front, needs) in enumerate(zip(fronts, steps, strict=True)):
        longer = np.full(buckets + 1, np.inf)
        for place, (level, need) in enumerate(zip(front, needs, strict=True)):
            if need <= buckets:
                candidate = best[: buckets + 1 - need] + costs[group][level]
                better = candidate < longer[need:]
                longer[need:][better] = candidate[better]
                choices[group, need:][better] = place
        best = longer
    if not math.isfinite(best[buckets]):
        return None
    chosen = [0] * len(times)
    left = buckets
    for group in reversed(range(len(times))):
        place = int(choices[group, left])
        chosen[group] = fronts[group][place]
        left -= steps[group][place]
    return chosen


def _spend_slack(
    times: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
    fronts: list[list[int]],
    budget: float,
    chosen: list[int],
) -> list[int]:
    """Greedy local search: change one group at a time, the largest saving first, while the exact times allow it."""
    chosen = list(chosen)
    while True:
        gains = [
            (costs[group][chosen[group]] - costs[group][level], group, level)
            for group, front in enumerate(fronts)
            for level in front
            if costs[group][level] < costs[group][chosen[group]]
        ]
        for _, group, level in sorted(gains, key=lambda gain: -gain[0]):
            changed = [*chosen[:group], level, *chosen[group + 1 :]]
            if _total(times, changed) <= budget:
                chosen = changed
                break
        else:
            return chosen


def _total(times: Sequence[Sequence[float]], chosen: list[int]) -> float:
    return math.fsum(times[group][level] for group, level in enumerate(chosen))
