"""Choosing one level for each group: least total cost within a time budget, exactly.

Dynamic programming over time cut into equal buckets, as in SPDY (Frantar, Alistarh 2022). Every time is rounded up, so
that the answer keeps to the budget; what the rounding leaves over is spent at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["Infeasible", "solve"]


class Infeasible(ValueError):
    """No choice keeps to the budget.

    Attributes:
        smallest: the least total time that any choice takes.
    """

    def __init__(self, smallest: float, budget: float) -> None:
        super().__init__(f"no choice takes less time than {smallest:g}, and the budget is {budget:g}")
        self.smallest = smallest


def solve(
    times: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, *, buckets: int = 10_000
) -> list[int]:
    """The level of each group for which the costs add up to least while the times add up to at most ``budget``.

    Exact for times rounded up to multiples of ``budget / buckets``: a better choice can only be missed if its slack is
    under ``groups / buckets`` of the budget. Of equally good levels the faster is taken.

    Args:
        times: time of each level, a list a group; groups may differ in their number of levels.
        costs: cost of each level, in the same layout; any sign.
        budget: largest total time, in the unit of ``times``.
        buckets: steps into which the budget is cut.

    Returns:
        The index of the chosen level, one a group.

    Raises:
        Infeasible: the fastest levels together take longer than the budget.
        ValueError: the layouts differ, a group has no level, a number is not finite, or a time is negative.
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
    # Rounding errors may carry the sum past the budget in its last digits; a budget a hair tighter rules that out.
    for tightened in (budget, budget * (1.0 - 1e-9)):
        chosen = _programme(times, costs, fronts, tightened, buckets)
        if chosen is not None and _total(times, chosen) <= budget:
            return _spend_slack(times, costs, fronts, budget, chosen)
    return _spend_slack(times, costs, fronts, budget, fastest)  # only the rounding up made the budget look too small


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
    """Levels that no other level beats in both time and cost, fastest first, hence cheapest last."""
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
    """Best choice for the rounded times, or ``None`` if there is none."""
    if budget <= 0:
        return None
    # The allowance keeps a time that is a whole number of buckets from being rounded up for the error in dividing it.
    allowance = 1e-9 / len(times)
    steps = [
        [
            math.ceil(group[level] / budget * buckets - allowance) if group[level] <= budget else buckets + 1
            for level in front
        ]
        for group, front in zip(times, fronts, strict=True)
    ]
    best: Float[np.ndarray, " buckets"] = np.zeros(buckets + 1)  # least cost within so many buckets
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
    """Change one group at a time, always the one that saves most, while the true times allow it."""
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
