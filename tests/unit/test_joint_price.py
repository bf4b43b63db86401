"""The joint price against its definition, and its moves against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from secateurs.numerics.joint_price import JointPrice

SIZES = (3, 4, 2, 3)
CHOICES = list(itertools.product(*map(range, SIZES)))


def drawn(seed: int = 0) -> list[np.ndarray]:
    """Responses of 20 samples that share a direction, so that groups interact; the last option of a group changes nothing."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(20, 1))
    found = [generator.normal(size=(20, size)) + common * generator.normal(size=size) for size in SIZES]
    for own in found:
        own[:, -1] = 0.0
    return found


def by_hand(responses: list[np.ndarray], separate: float, choice: tuple[int, ...]) -> float:
    chosen = [own[:, index] for own, index in zip(responses, choice, strict=True)]
    alone = sum(float((one**2).mean()) / 2 for one in chosen)
    between = sum(float((one * other).mean()) for one, other in itertools.combinations(chosen, 2))
    return alone + (1 - separate) * between


@pytest.mark.parametrize("separate", [0.0, 0.3, 1.0])
def test_the_price_is_its_definition(separate: float) -> None:
    responses = drawn()
    price = JointPrice(responses, separate)
    for choice in CHOICES:
        assert price(choice) == pytest.approx(by_hand(responses, separate, choice), abs=1e-12)


def test_the_whole_price_is_half_the_mean_square_of_the_summed_responses() -> None:
    responses = drawn(1)
    choice = (0, 2, 1, 1)
    total = sum(own[:, index] for own, index in zip(responses, choice, strict=True))
    assert JointPrice(responses, 0.0)(choice) == pytest.approx(float((total**2).mean()) / 2)


def test_changes_are_differences_of_prices() -> None:
    price, choice = JointPrice(drawn(2), 0.3), [1, 2, 0, 1]
    for group, changes in enumerate(price.around(choice)):
        for index, change in enumerate(changes):
            moved = [*choice[:group], index, *choice[group + 1 :]]
            assert change == pytest.approx(price(moved) - price(choice), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_moves_keep_the_limit_and_end_where_no_move_of_two_groups_helps(seed: int) -> None:
    responses = drawn(seed)
    price = JointPrice(responses, 0.3)
    costs = [[float(index) for index in range(size)] for size in SIZES]
    limit = 4.5

    def cost(choice: tuple[int, ...]) -> float:
        return sum(own[index] for own, index in zip(costs, choice, strict=True))

    found = tuple(price.improve([0, 0, 0, 0], costs, limit))
    assert cost(found) <= limit
    assert price(found) <= price([0, 0, 0, 0])
    near = [
        choice
        for choice in CHOICES
        if cost(choice) <= limit and sum(one != other for one, other in zip(choice, found, strict=True)) <= 2
    ]
    assert len(near) > 5
    assert min(map(price, near)) >= price(found) - 1e-9


def test_two_groups_that_cancel_are_found_together() -> None:
    """Neither move helps alone: the second group undoes what the first one does."""
    response = np.ones((8, 1))
    responses = [np.hstack([response, 0 * response]), np.hstack([-response, 0 * response])]
    price = JointPrice(responses, 0.0)
    assert price([0, 0]) == 0.0
    assert price([0, 1]) == price([1, 0]) == 0.5
    assert price.improve([0, 1], [[0.0, 1.0], [0.0, 1.0]], 1.0) == [0, 0]
