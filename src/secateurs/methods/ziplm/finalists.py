"""``Finalists``: the last round of the search, in which near-optimal allocations are refitted and the best one wins.

The search compares candidates whose weights were fitted to the dense model. The final model is fitted once more to its pruned
layers (``secateurs.oneshot.sequential_refit``), and the two rank differently: allocations that look the same before that
refit can differ by a third after it. Other allocations are found by solving the knapsack with perturbed costs. All are
refitted on texts that the search did not use, and compared on the texts of the search.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from secateurs.oneshot.level_options import LevelOptions, QualityCosts, SearchResult, cheapest
from secateurs.structure.allocation import Allocation

__all__ = ["Finalists"]

logger = logging.getLogger(__name__)

PERTURBATION = (0.4, 0.2)
"""Standard deviation of the log of the cost factors: in the first half of the tries, and then around the best finalist."""


class Finalists:
    """Proposes allocations one by one; ``tell`` reports how good the last one was after its refit.

    Args:
        found: result of the search; it is the first finalist.
        options: group name -> its options.
        limit: budget of all groups together.
        tries: finalists, that one included; an allocation that comes up again is skipped.
        seed: seed of the perturbations.

    Attributes:
        best: the best finalist so far, with the costs that led to it. A corrected budget is solved for with those costs.
    """

    def __init__(
        self, found: SearchResult, options: Mapping[str, LevelOptions], limit: float, *, tries: int, seed: int
    ) -> None:
        self.best = self._proposed = found
        self.options, self.limit, self.tries, self.seed = options, limit, tries, seed
        self._divergence = float("inf")
        self._number = 0

    def __iter__(self) -> Iterator[Allocation]:
        generator = np.random.default_rng(self.seed)
        found = self.best
        seen: set[tuple[int, ...]] = set()
        for number in range(self.tries):
            costs, allocation = found.costs, found.allocation
            if number > 0:
                costs = _perturbed(self.best.costs, PERTURBATION[2 * number >= self.tries], generator)
                allocation = cheapest(self.options, costs, self.limit)
            if (key := tuple(allocation.values())) in seen:
                continue
            seen.add(key)
            self._proposed = replace(found, allocation=allocation, costs=costs)
            self._number = number + 1
            yield allocation

    def tell(self, divergence: float) -> None:
        """Report the divergence of the last proposed allocation after its refit."""
        logger.info("finalist %d: divergence %.5f after its refit", self._number, divergence)
        if divergence < self._divergence:
            self.best, self._divergence = replace(self._proposed, held_out=divergence), divergence


def _perturbed(costs: QualityCosts, deviation: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The costs of every group times one random factor: the search is least certain about a group's costs as a whole."""
    return {name: np.asarray(values) * np.exp(deviation * generator.normal()) for name, values in costs.items()}
