"""Steps, ramp and learning rate of the gates: CoFi's and FLOP's."""

from __future__ import annotations

import pytest

from secateurs.errors import RecipeError
from secateurs.methods.cofi import CoFi
from secateurs.methods.cofi.schedule import TRAVEL, steps_and_rate
from secateurs.methods.flop import FLOP
from secateurs.methods.flop.steps import gate_schedule


def test_cofi_keeps_the_rate_of_the_gates_if_there_are_enough_steps() -> None:
    assert steps_and_rate(CoFi(epochs=20.0, ramp=2.0, gate_rate=0.01), rows=1600, batch=32) == (1000, 0.01)
    assert steps_and_rate(CoFi(steps=975, gate_rate=0.01), rows=1600, batch=32) == (975, 0.01)
    assert steps_and_rate(CoFi(epochs=20.0, gate_rate=0.01), rows=1601, batch=32)[0] == 1001


def test_with_fewer_steps_cofi_can_close_a_gate_in_two_thirds_of_them() -> None:
    steps, rate = steps_and_rate(CoFi(steps=200, gate_rate=0.01), rows=1600, batch=32)
    assert steps == 200
    assert 2 / 3 * steps * rate == pytest.approx(TRAVEL)


def test_cofi_refuses_too_few_steps() -> None:
    assert steps_and_rate(CoFi(steps=98), rows=48, batch=8)[1] <= 0.1
    with pytest.raises(RecipeError, match=r"cofi: 97 steps are too few.*at least 98 .*more epochs of 48 rows"):
        steps_and_rate(CoFi(steps=97), rows=48, batch=8)
    with pytest.raises(RecipeError, match="12 steps are too few"):
        steps_and_rate(CoFi(epochs=2.0, ramp=1.0), rows=48, batch=8)


@pytest.mark.parametrize(("steps", "ramp", "rate"), [(60, 30, 0.3), (150, 50, 0.3), (600, 75, 0.2), (8000, 1000, 0.05)])
def test_flop_can_close_a_gate_within_the_ramp(steps: int, ramp: int, rate: float) -> None:
    found, pace = gate_schedule(FLOP(steps=steps), rows=1, batch=1)
    assert (found, pace.ramp, pace.gates) == (steps, ramp, pytest.approx(rate))
