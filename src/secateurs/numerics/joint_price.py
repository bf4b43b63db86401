"""The price of a whole allocation from the responses to its levels, interactions included; and moves that lower it.

With ``r_g`` the response of the outputs to the option of group ``g`` (``secateurs.oneshot.responses``),

    price = sum_g mean (r_g^2) / 2 + (1 - separate) sum_{g<h} mean (r_g r_h)

estimates the divergence. At ``separate`` = 0 it is ``mean ((sum_g r_g)^2) / 2``. The products between groups are noisy on few
texts, so a share ``separate`` of them is left out. All products are computed once, after which a move costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

__all__ = ["JointPrice"]

_SMALLEST_GAIN = 1e-9
"""Smallest gain of a move, relative to the price: less is rounding, and moves would go in circles."""

_ROUNDING = 1e-12
"""Share of the limit that is left free, so that rounding does not exceed it."""

_MOVES = 500
"""Largest number of moves."""


class JointPrice:
    """Prices of choices of one option per group.

    Args:
        responses: by group, the response to each option, shape (samples, options).
        separate: share of the products between groups that is left out, 0 to 1.
    """

    def __init__(self, responses: Sequence[Float[np.ndarray, "samples _"]], separate: float) -> None:
        sizes = [own.shape[1] for own in responses]
        ends = np.cumsum(sizes)
        self._starts: Int[np.ndarray, " groups"] = ends - sizes
        self._group = np.repeat(np.arange(len(sizes)), sizes)
        everything = np.concatenate(list(responses), 1).astype(np.float64)
        products = everything.T @ everything / len(everything)
        self._alone: Float[np.ndarray, " all"] = products.diagonal() / 2
        self._between = (1 - separate) * products
        self._between[self._group[:, None] == self._group] = 0.0
        self.separately = [self._alone[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        """The price of each option alone, by group."""

    def __call__(self, choice: Sequence[int]) -> float:
        """The price of a choice: the index of one option per group."""
        at = self._starts + np.asarray(choice)
        return float(self._alone[at].sum() + self._between[np.ix_(at, at)].sum() / 2)

    def around(self, choice: Sequence[int]) -> list[Float[np.ndarray, " options"]]:
        """The change of the price if one group moves from ``choice`` to another option, by group."""
        changes = self._changes(self._starts + np.asarray(choice))
        return [changes[start : start + len(own)] for start, own in zip(self._starts, self.separately, strict=True)]

    def improve(self, choice: Sequence[int], costs: Sequence[Sequence[float]], limit: float) -> list[int]:
        """Steepest descent: the best move of one or two groups that fits within the limit, until none lowers the price.

        Args:
            choice: where to start: the index of one option per group. It fits within the limit.
            costs: by group, cost of each option.
            limit: budget of all groups together.

        Returns:
            A choice with at most the price of the first.
        """
        cost = np.concatenate([np.asarray(own, dtype=np.float64) for own in costs])
        now = self._starts + np.asarray(choice)
        for _ in range(_MOVES):
            move = self._best_move(now, cost, limit)
            if move is None:
                break
            for option in move:
                now[self._group[option]] = option
        return [int(index) for index in now - self._starts]

    def _changes(self, now: Int[np.ndarray, " groups"]) -> Float[np.ndarray, " all"]:
        here = now[self._group]
        around = self._between[:, now].sum(1)
        return self._alone - self._alone[here] + around - around[here]

    def _best_move(
        self, now: Int[np.ndarray, " groups"], cost: Float[np.ndarray, " all"], limit: float
    ) -> tuple[int, int] | None:
        """The new options of two groups (of one group: the same option twice); ``None`` if no move lowers the price."""
        here = now[self._group]
        changes = self._changes(now)
        spent = cost - cost[here]
        slack = limit * (1 - _ROUNDING) - cost[now].sum()
        # Two moves change the price by the change of each alone, and by the products of the two.
        both = self._between - self._between[:, here]
        both += self._between[np.ix_(here, here)] - self._between[here]
        both += changes[:, None] + changes
        total = spent[:, None] + spent
        both[(self._group[:, None] == self._group) | (total > slack)] = np.inf
        alone = np.where(spent <= slack, changes, np.inf)
        least = -_SMALLEST_GAIN * max(abs(self((now - self._starts).tolist())), np.finfo(float).tiny)
        first, second = divmod(int(both.argmin()), len(cost))
        if alone.min() <= both[first, second]:
            first = second = int(alone.argmin())
            return (first, second) if alone[first] < least else None
        return (first, second) if both[first, second] < least else None
