"""The search on a synthetic objective whose best allocation is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from secateurs.errors import TargetUnreachable
from secateurs.oneshot.level_options import LevelOptions, cheapest, nearby
from secateurs.oneshot.paper_search import coefficient_search
from secateurs.oneshot.search import refine, sensitivities

KEPT = (0, 1, 2, 3, 4)
OWN = LevelOptions(KEPT, (0.0, 1.0, 2.0, 3.0, 4.0), (1.0, 0.6, 0.3, 0.1, 0.0))
OPTIONS = {"a": OWN, "b": OWN, "c": OWN}
WEIGHT = {"a": 5.0, "b": 1.0, "c": 2.0}
ROWS = 32


def divergence(allocation: Mapping[str, int], seed: int) -> torch.Tensor:
    """A weighted sum of the errors, plus a term that makes removing ``b`` and ``c`` together worse than the sum of both.

    Rows scatter by a tenth.
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(WEIGHT[name] * OWN.error[kept] for name, kept in allocation.items())
    total += 3.0 * OWN.error[allocation["b"]] * OWN.error[allocation["c"]]
    return total * (1 + 0.1 * torch.randn(ROWS, generator=generator))


class SyntheticObjective:
    """``divergence`` on search rows and on held-out rows; keeps its incumbents."""

    def __init__(self) -> None:
        self.settled: list[Mapping[str, int]] = []

    def search(self, allocation: Mapping[str, int]) -> torch.Tensor:
        return divergence(allocation, 0)

    def held_out(self, allocation: Mapping[str, int]) -> torch.Tensor:
        return divergence(allocation, 1)

    def settle(self, allocation: Mapping[str, int]) -> None:
        self.settled.append(allocation)


search = SyntheticObjective().search


def best(limit: float) -> float:
    """The least divergence within the limit, by trying everything."""
    allocations = [dict(zip("abc", kept, strict=True)) for kept in itertools.product(KEPT, repeat=3)]
    return min(float(search(one).mean()) for one in allocations if sum(one.values()) <= limit)


def test_sensitivities_are_the_divergence_of_one_group_at_a_time() -> None:
    full = dict.fromkeys("abc", 4)
    costs = sensitivities(search, OPTIONS, full, probes=9)
    base = float(search(full).mean())
    for name in "abc":
        wanted = [float(search({**full, name: kept}).mean()) - base for kept in KEPT]
        np.testing.assert_allclose(costs[name], wanted, atol=1e-6)


def test_levels_between_probes_are_interpolated_over_the_layer_error() -> None:
    """The divergence is linear in the error, so three probes determine all of it."""
    tried = []

    def counted(allocation: Mapping[str, int]) -> torch.Tensor:
        tried.append(dict(allocation))
        return search(allocation)

    full = dict.fromkeys("abc", 4)
    costs = sensitivities(counted, OPTIONS, full, probes=3)
    base = float(search(full).mean())
    for name in "abc":
        wanted = [float(search({**full, name: kept}).mean()) - base for kept in KEPT]
        np.testing.assert_allclose(costs[name], wanted, atol=1e-6)
    assert len(tried) < 1 + 3 * len(KEPT)


@pytest.mark.parametrize("limit", [3.0, 5.0, 7.5, 9.0])
def test_refine_finds_the_best_allocation(limit: float) -> None:
    full = dict.fromkeys("abc", 4)
    costs = sensitivities(search, OPTIONS, full, probes=9)
    first = cheapest(OPTIONS, costs, limit)
    objective: Any = SyntheticObjective()
    found = refine(objective, OPTIONS, costs, limit, rounds=2, probes=9, steps=80, seed=0)
    assert sum(found.allocation.values()) <= limit
    assert found.held_out <= float(objective.held_out(first).mean()) + 1e-9
    assert found.value <= 1.03 * best(limit)
    assert objective.settled[0] == first
    assert objective.settled[-1] == found.allocation


def test_the_search_of_the_paper_finds_it_too_and_evaluates_no_allocation_twice() -> None:
    evaluated = []

    def counted(allocation: Mapping[str, int]) -> torch.Tensor:
        evaluated.append(tuple(allocation.values()))
        return search(allocation)

    prior = {name: np.asarray(OWN.error) for name in "abc"}
    found = coefficient_search(counted, OPTIONS, prior, 5.0, inits=20, steps=150, probability=0.3, seed=0)
    assert len(evaluated) == len(set(evaluated)) == found.evaluations
    assert found.value <= 1.03 * best(5.0)
    again = coefficient_search(counted, OPTIONS, prior, 5.0, inits=20, steps=150, probability=0.3, seed=0)
    assert again.allocation == found.allocation
    # The costs that it returns lead to its own answer.
    assert cheapest(OPTIONS, found.costs, 5.0) == found.allocation


def test_an_impossible_budget_is_refused() -> None:
    options = {"a": LevelOptions((1, 2), (1.0, 2.0), (0.5, 0.0))}
    with pytest.raises(TargetUnreachable):
        cheapest(options, {"a": np.asarray([1.0, 0.0])}, 0.5)


def test_nearby_keeps_the_options_around_an_allocation() -> None:
    near = nearby(OPTIONS, {"a": 0, "b": 2, "c": 4}, 1)
    assert {name: options.kept for name, options in near.items()} == {"a": (0, 1), "b": (1, 2, 3), "c": (3, 4)}
    assert near["b"].ms == (1.0, 2.0, 3.0)
    assert near["b"].pick([10.0, 11.0, 12.0, 13.0, 14.0], OWN) == [11.0, 12.0, 13.0]


def test_a_single_group_is_searched_without_local_moves() -> None:
    """There is no second group to shift time to."""

    class OneGroup:
        def search(self, allocation: Mapping[str, int]) -> torch.Tensor:
            return torch.full((4,), OWN.error[allocation["a"]])

        held_out = search

        def settle(self, allocation: Mapping[str, int]) -> None:
            pass

    options, objective = {"a": OWN}, OneGroup()
    costs = sensitivities(objective.search, options, {"a": 4}, probes=9)
    one: Any = objective
    found = refine(one, options, costs, 2.5, rounds=1, probes=9, steps=10, seed=0)
    assert found.allocation == {"a": 2}
    paper = coefficient_search(
        objective.search, options, {"a": np.asarray(OWN.error)}, 2.5, inits=2, steps=5, probability=0.5, seed=0
    )
    assert paper.allocation == {"a": 2}
