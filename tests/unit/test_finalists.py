"""The last round of the search: what is best after its fit wins, and its costs go with it."""

from __future__ import annotations

import numpy as np
import torch

from secateurs.allocation import Found, Menu, cheapest
from secateurs.methods._finalists import best_fitted

MENUS = {
    name: Menu(tuple(range(9)), tuple(map(float, range(9))), tuple(1 - k / 8 for k in range(9))) for name in "abcd"
}
COSTS = {name: np.asarray([(8 - k) ** 2 / 64 for k in range(9)]) for name in MENUS}
LIMIT = 16.0
FOUND = Found(cheapest(MENUS, COSTS, LIMIT), 0.1, 0.1, 1, COSTS)


def best(tries: int, seed: int = 0) -> tuple[Found, list[dict[str, int]]]:
    """Once fitted, every unit of "a" is worth more than the search believed."""
    fitted: list[dict[str, int]] = []

    def fit(profile: dict[str, int]) -> torch.Tensor:
        fitted.append(profile)
        assert sum(menu.ms[profile[name]] for name, menu in MENUS.items()) <= LIMIT
        return torch.full((4,), 10.0 - profile["a"])

    return best_fitted(FOUND, MENUS, LIMIT, fit, tries=tries, seed=seed), fitted


def test_the_best_after_its_fit_wins_and_is_solved_for_by_its_costs() -> None:
    found, fitted = best(12)
    assert fitted[0] == FOUND.profile
    assert found.profile["a"] == max(profile["a"] for profile in fitted) > FOUND.profile["a"]
    assert found.held_out == 10.0 - found.profile["a"]
    assert cheapest(MENUS, found.costs, LIMIT) == found.profile


def test_nothing_is_fitted_twice_and_all_follows_from_the_seed() -> None:
    found, fitted = best(12)
    assert len({tuple(profile.values()) for profile in fitted}) == len(fitted) > 3
    again, refitted = best(12)
    assert (again.profile, refitted) == (found.profile, fitted)


def test_one_try_is_the_search_s_own() -> None:
    found, fitted = best(1)
    assert found.profile == FOUND.profile
    assert fitted == [FOUND.profile]
