"""Steps in which masks are learned, and a rate of the gates that goes with them."""

from __future__ import annotations

import pytest

from secateurs.errors import RecipeError
from secateurs.methods._schedule import TRAVEL, steps_and_rate
from secateurs.methods.cofi import CoFi


def test_enough_steps_keep_the_rate_of_the_gates() -> None:
    assert steps_and_rate(CoFi(epochs=20.0, ramp=2.0, gate_rate=0.01), rows=1600, batch=32) == (1000, 0.01)
    assert steps_and_rate(CoFi(steps=975, gate_rate=0.01), rows=1600, batch=32) == (975, 0.01)
    assert steps_and_rate(CoFi(epochs=20.0, gate_rate=0.01), rows=1601, batch=32)[0] == 1001


def test_fewer_steps_raise_it_until_a_gate_can_close_in_two_thirds_of_them() -> None:
    steps, rate = steps_and_rate(CoFi(steps=200, gate_rate=0.01), rows=1600, batch=32)
    assert steps == 200
    assert 2 / 3 * steps * rate == pytest.approx(TRAVEL)


def test_too_few_steps_for_any_rate_are_refused() -> None:
    assert steps_and_rate(CoFi(steps=98), rows=48, batch=8)[1] <= 0.1
    with pytest.raises(RecipeError, match=r"cofi: 97 steps are too few.*at least 98 .*more epochs of 48 rows"):
        steps_and_rate(CoFi(steps=97), rows=48, batch=8)
    with pytest.raises(RecipeError, match="12 steps are too few"):
        steps_and_rate(CoFi(epochs=2.0, ramp=1.0), rows=48, batch=8)
