"""Finalists: the best one after its refit wins, and its costs are kept with it."""

from __future__ import annotations

import numpy as np

from secateurs.methods.ziplm.finalists import Finalists
from secateurs.oneshot.level_options import LevelOptions, SearchResult, cheapest
from secateurs.structure.allocation import Allocation

OPTIONS = {
    name: LevelOptions(tuple(range(9)), tuple(map(float, range(9))), tuple(1 - k / 8 for k in range(9)))
    for name in "abcd"
}
COSTS = {name: np.asarray([(8 - k) ** 2 / 64 for k in range(9)]) for name in OPTIONS}
LIMIT = 16.0
FOUND = SearchResult(cheapest(OPTIONS, COSTS, LIMIT), 0.1, 0.1, 1, COSTS)


def best(tries: int, seed: int = 0) -> tuple[SearchResult, list[Allocation]]:
    """The best finalist and all of them, where after the refit a unit of ``a`` is worth more than the search estimated."""
    finalists = Finalists(FOUND, OPTIONS, LIMIT, tries=tries, seed=seed)
    refitted: list[Allocation] = []
    for allocation in finalists:
        refitted.append(allocation)
        assert sum(options.ms[allocation[name]] for name, options in OPTIONS.items()) <= LIMIT
        finalists.tell(10.0 - allocation["a"])
    return finalists.best, refitted


def test_the_best_after_its_refit_wins_and_its_costs_lead_to_it() -> None:
    found, refitted = best(12)
    assert refitted[0] == FOUND.allocation
    assert found.allocation["a"] == max(allocation["a"] for allocation in refitted) > FOUND.allocation["a"]
    assert found.held_out == 10.0 - found.allocation["a"]
    assert cheapest(OPTIONS, found.costs, LIMIT) == found.allocation


def test_no_allocation_is_refitted_twice_and_the_seed_determines_all() -> None:
    found, refitted = best(12)
    assert len({tuple(allocation.values()) for allocation in refitted}) == len(refitted) > 3
    again, refitted_again = best(12)
    assert (again.allocation, refitted_again) == (found.allocation, refitted)


def test_a_single_try_is_the_result_of_the_search() -> None:
    found, refitted = best(1)
    assert found.allocation == FOUND.allocation
    assert refitted == [FOUND.allocation]
