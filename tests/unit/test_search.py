"""The search on a made-up model whose best profile is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from secateurs.allocation import Menu, cheapest, nearby
from secateurs.errors import TargetUnreachable
from secateurs.stages.coefficients import coefficient_search
from secateurs.stages.search import refine, sensitivities

KEPT = (0, 1, 2, 3, 4)
MENU = Menu(KEPT, (0.0, 1.0, 2.0, 3.0, 4.0), (1.0, 0.6, 0.3, 0.1, 0.0))
MENUS = {"a": MENU, "b": MENU, "c": MENU}
WEIGHT = {"a": 5.0, "b": 1.0, "c": 2.0}
ROWS = 32


def damage(profile: Mapping[str, int], seed: int) -> torch.Tensor:
    """Each group hurts by its own weight; removing both ``b`` and ``c`` hurts more than their sum. Rows scatter."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(WEIGHT[name] * MENU.error[kept] for name, kept in profile.items())
    total += 3.0 * MENU.error[profile["b"]] * MENU.error[profile["c"]]
    return total * (1 + 0.1 * torch.randn(ROWS, generator=generator))


def search(profile: Mapping[str, int]) -> torch.Tensor:
    return damage(profile, 0)


def held_out(profile: Mapping[str, int]) -> torch.Tensor:
    return damage(profile, 1)


def best(limit: float) -> float:
    """By trying everything."""
    profiles = [dict(zip("abc", kept, strict=True)) for kept in itertools.product(KEPT, repeat=3)]
    return min(float(search(one).mean()) for one in profiles if sum(one.values()) <= limit)


def test_sensitivities_are_what_each_group_costs_alone() -> None:
    full = dict.fromkeys("abc", 4)
    costs = sensitivities(search, MENUS, full, probes=9)
    base = float(search(full).mean())
    for name in "abc":
        wanted = [float(search({**full, name: kept}).mean()) - base for kept in KEPT]
        np.testing.assert_allclose(costs[name], wanted, atol=1e-6)


def test_few_probes_are_interpolated_on_the_scale_of_the_layer_error() -> None:
    """The made-up damage is linear in the error, so three probes tell everything."""
    tried = []

    def counted(profile: Mapping[str, int]) -> torch.Tensor:
        tried.append(dict(profile))
        return search(profile)

    full = dict.fromkeys("abc", 4)
    costs = sensitivities(counted, MENUS, full, probes=3)
    base = float(search(full).mean())
    for name in "abc":
        wanted = [float(search({**full, name: kept}).mean()) - base for kept in KEPT]
        np.testing.assert_allclose(costs[name], wanted, atol=1e-6)
    assert len(tried) < 1 + 3 * len(KEPT)


@pytest.mark.parametrize("limit", [3.0, 5.0, 7.5, 9.0])
def test_refine_finds_the_best_profile(limit: float) -> None:
    full = dict.fromkeys("abc", 4)
    costs = sensitivities(search, MENUS, full, probes=9)
    first = cheapest(MENUS, costs, limit)
    settled = []
    found = refine(
        search, held_out, MENUS, costs, limit, settle=settled.append, rounds=2, probes=9, steps=80, seed=0
    )  # fmt: skip
    assert sum(found.profile.values()) <= limit
    assert found.held_out <= float(held_out(first).mean()) + 1e-9
    assert found.value <= 1.03 * best(limit)
    assert settled[0] == first
    assert settled[-1] == found.profile


def test_the_paper_s_search_finds_it_too_and_never_asks_twice() -> None:
    asked = []

    def counted(profile: Mapping[str, int]) -> torch.Tensor:
        asked.append(tuple(profile.values()))
        return search(profile)

    prior = {name: np.asarray(MENU.error) for name in "abc"}
    found = coefficient_search(counted, MENUS, prior, 5.0, inits=20, steps=150, probability=0.3, seed=0)
    assert len(asked) == len(set(asked)) == found.evaluations
    assert found.value <= 1.03 * best(5.0)
    again = coefficient_search(counted, MENUS, prior, 5.0, inits=20, steps=150, probability=0.3, seed=0)
    assert again.profile == found.profile
    # The costs it returns lead to its own answer.
    assert cheapest(MENUS, found.costs, 5.0) == found.profile


def test_an_impossible_budget_is_named() -> None:
    menus = {"a": Menu((1, 2), (1.0, 2.0), (0.5, 0.0))}
    with pytest.raises(TargetUnreachable):
        cheapest(menus, {"a": np.asarray([1.0, 0.0])}, 0.5)


def test_nearby_cuts_the_menus_around_a_profile() -> None:
    cut = nearby(MENUS, {"a": 0, "b": 2, "c": 4}, 1)
    assert {name: menu.kept for name, menu in cut.items()} == {"a": (0, 1), "b": (1, 2, 3), "c": (3, 4)}
    assert cut["b"].ms == (1.0, 2.0, 3.0)
    assert cut["b"].pick([10.0, 11.0, 12.0, 13.0, 14.0], MENU) == [11.0, 12.0, 13.0]
