"""Hard concrete gates against closed forms, tables and sample means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.numerics.hard_concrete import HardConcrete

GATE = HardConcrete()

# log_alpha, P(z > 0), value of an open gate
TABLE = [
    (-10.0, 0.000225, 0.000006),
    (-4.6051702, 0.047130, 0.003965),
    (-2.0, 0.400975, 0.083173),
    (-1.5985968, 0.500000, 0.128049),
    (-1.0, 0.645335, 0.231475),
    (0.0, 0.831822, 0.500000),
    (1.0, 0.930771, 0.768525),
    (2.0, 0.973367, 0.916827),
    (4.6051702, 0.997982, 0.996035),
]


@pytest.mark.parametrize(("log_alpha", "probability", "value"), TABLE)
def test_table(log_alpha: float, probability: float, value: float) -> None:
    given = torch.tensor([log_alpha], dtype=torch.float64)
    assert GATE.open_probability(given).item() == pytest.approx(probability, abs=6e-7)
    assert GATE.soft(given).item() == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(
    ("uniform", "samples"),
    [
        (0.05, (0, 0, 0.134223)),
        (0.2, (0, 0.033333, 0.758187)),
        (0.5, (0, 0.5, 1)),
        (0.8, (0.241813, 0.966667, 1)),
        (0.95, (0.865777, 1, 1)),
    ],
)
def test_samples(uniform: float, samples: tuple[float, ...]) -> None:
    log_alpha = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    found = GATE.sample(log_alpha, torch.full_like(log_alpha, uniform))
    torch.testing.assert_close(found, torch.tensor(samples, dtype=torch.float64), atol=6e-7, rtol=0)


@pytest.mark.parametrize("log_alpha", [-2.0, -0.5, 1.0])
def test_share_of_open_samples_is_the_open_probability(log_alpha: float) -> None:
    count = 200_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    share = (GATE.sample(torch.full((count,), log_alpha), uniform) > 0).double().mean().item()
    expected = GATE.open_probability(torch.tensor([log_alpha])).item()
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


def test_the_gradient_of_a_sample() -> None:
    log_alpha = torch.tensor([-0.3, 0.2, 0.9], dtype=torch.float64, requires_grad=True)
    uniform = torch.tensor([0.4, 0.5, 0.45], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda parameter: GATE.sample(parameter, uniform), (log_alpha,))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4.6, 4.6), min_size=1, max_size=40))
def test_deterministic_gates_open_the_expected_number_with_the_largest_parameters(values: list[float]) -> None:
    log_alpha = torch.tensor(values, dtype=torch.float64)
    gates = GATE.deterministic(log_alpha)
    expected = GATE.open_probability(log_alpha).sum().item()
    opened = gates > 0
    assert abs(int(opened.sum()) - expected) <= 0.5 + 1e-9
    if opened.any() and not opened.all():
        assert log_alpha[opened].min() >= log_alpha[~opened].max()
    torch.testing.assert_close(gates[opened], torch.sigmoid(1.2 * log_alpha[opened]))


def test_deterministic_gates_with_a_given_number_and_their_gradient() -> None:
    log_alpha = torch.tensor([1.0, -1.0, 1.0, 0.0], requires_grad=True)
    gates = GATE.deterministic(log_alpha, open_units=2)
    assert (gates > 0).tolist() == [True, False, True, False]
    gates.sum().backward()
    assert (log_alpha.grad != 0).tolist() == [True, False, True, False]
    assert GATE.deterministic(log_alpha, open_units=1).count_nonzero() == 1  # of equal parameters the first stays open
    with pytest.raises(ValueError, match="5 of 4"):
        GATE.deterministic(log_alpha, open_units=5)
