"""FLOP's hard concrete gates (beta = 1), evaluation masks, penalty and schedules against numbers of the published code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.numerics.lagrangian import Lagrangian, warmup_target
from secateurs.numerics.low_rank import break_even
from secateurs.training.schedules import noam

GATE = HardConcrete(beta=1.0)

# log_alpha, P(z > 0), value of an open gate
TABLE = [
    (-10.0, 0.000499, 0.000335),
    (-4.6051702, 0.099099, 0.024503),
    (-2.3978953, 0.500000, 0.128049),
    (-1.0, 0.801850, 0.310026),
    (-0.5, 0.869653, 0.401312),
    (0.0, 11 / 12, 0.500000),
    (0.5, 0.947742, 0.598688),
    (1.0, 0.967639, 0.689974),
    (2.3978953, 0.991803, 0.871951),
    (4.6051702, 0.999092, 0.975497),
]


def given(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("log_alpha", "probability", "value"), TABLE)
def test_table(log_alpha: float, probability: float, value: float) -> None:
    assert GATE.open_probability(given(log_alpha)).item() == pytest.approx(probability, abs=1e-6)
    assert GATE.soft(given(log_alpha)).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("uniform", "samples"),
    [
        (0.05, (0, 0, 0.236005)),
        (0.2, (0, 0.14, 0.678543)),
        (0.5, (0.043044, 0.5, 0.956957)),
        (0.8, (0.321457, 0.86, 1)),
        (0.95, (0.763994, 1, 1)),
    ],
)
def test_samples(uniform: float, samples: tuple[float, ...]) -> None:
    found = GATE.sample(given(-2, 0, 2), torch.full((3,), uniform, dtype=torch.float64))
    torch.testing.assert_close(found, given(*samples), atol=1e-6, rtol=0)


def test_share_of_open_samples() -> None:
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    share = (GATE.sample(torch.full_like(uniform, -1.0), uniform) > 0).double().mean().item()
    assert share == pytest.approx(0.80185, abs=0.0036)


@pytest.mark.parametrize(
    ("log_alpha", "expected", "mask"),
    [
        ((-4, -2.5, -2, -0.5, 1, 3), 4.073152, (0, 0, 0.167982, 0.401312, 0.689974, 0.916827)),
        ((-3, -1, 0, 2), 3.060225, (0, 0.310026, 0.5, 0.832018)),
    ],
)
def test_masks_for_evaluation(log_alpha: tuple[float, ...], expected: float, mask: tuple[float, ...]) -> None:
    """The expected number of gates with the smallest ``log_alpha`` is closed; the other gates keep their values."""
    assert GATE.open_probability(given(*log_alpha)).sum().item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(GATE.deterministic(given(*log_alpha)), given(*mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(768, 768, 384), (768, 3072, 614), (10, 20, 6), (16, 16, 8)])
def test_ranks_of_factors_from_scratch(inputs: int, outputs: int, rank: int) -> None:
    assert break_even(inputs, outputs) == rank


def test_the_penalty_and_the_gradients_of_its_multipliers() -> None:
    penalty = Lagrangian(stiffness=3.0, beta=2.0)
    value = torch.tensor(0.3)
    loss = penalty(value, 0.5)
    assert loss.item() == pytest.approx(2 * 3 * 0.04)
    loss.backward()
    assert penalty.linear.grad is not None and penalty.quadratic.grad is not None
    assert penalty.linear.grad.item() == pytest.approx(-0.2)
    assert penalty.quadratic.grad.item() == pytest.approx(2 * 0.04), "a square, so the multiplier can only grow"


def test_the_target_rises_from_the_sparsity_of_factors_of_full_rank() -> None:
    assert [warmup_target(step, 4, 0.5, -1.0) for step in (0, 2, 4, 9)] == [-1.0, -0.25, 0.5, 0.5]


def test_noam_is_the_formula_scaled_to_its_peak() -> None:
    """``c min(k^-1/2, k w^-3/2) / sqrt(d)``: 2.86e-4 after 16,000 steps for c = 2 and d = 3056."""
    warmup, wanted = 16_000, [2 * min(k**-0.5, k * 16_000**-1.5) / 3056**0.5 for k in (1, 8_000, 16_000, 64_000)]
    peak = 2 / (3056 * warmup) ** 0.5
    assert peak == pytest.approx(2.86e-4, rel=1e-3)
    assert [peak * noam(k - 1, warmup) for k in (1, 8_000, 16_000, 64_000)] == pytest.approx(wanted)
