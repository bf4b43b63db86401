"""The penalty, the warm-up of its target, and their effect on gates without another loss."""

from __future__ import annotations

import pytest
import torch

from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.numerics.lagrangian import Lagrangian, warmup_target

GATE = HardConcrete()


def test_the_target_rises_linearly_and_stays() -> None:
    assert [warmup_target(step, 4, 0.8) for step in range(7)] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert warmup_target(0, 0, 0.8) == 0.8
    assert warmup_target(1, 2, 0.8, start=0.4) == pytest.approx(0.6)


def test_the_penalty_and_its_gradients() -> None:
    penalty = Lagrangian().double()
    value = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        penalty.linear.fill_(-2.0)
        penalty.quadratic.fill_(3.0)
    penalty(value, 0.5).backward()
    assert value.grad is not None and penalty.linear.grad is not None and penalty.quadratic.grad is not None
    assert value.grad.item() == pytest.approx(-2.0 + 2 * 3.0 * 0.2)
    assert penalty.linear.grad.item() == pytest.approx(0.2)
    assert penalty.quadratic.grad.item() == pytest.approx(0.04)


def test_no_gradient_while_the_multipliers_are_zero() -> None:
    value = torch.tensor(0.1, requires_grad=True)
    Lagrangian()(value, 0.9).backward()
    assert value.grad == 0


@pytest.mark.parametrize("target", [0.6, 0.95])
def test_gates_reach_the_target_and_do_not_collapse(target: float) -> None:
    log_alpha = torch.nn.Parameter(torch.full((200,), 4.6))
    with torch.no_grad():  # different gates, as under any loss
        log_alpha += 0.01 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    penalty = Lagrangian()
    down = torch.optim.AdamW([log_alpha], lr=0.01, weight_decay=0.0)
    up = torch.optim.AdamW(penalty.parameters(), lr=0.01, weight_decay=0.0, maximize=True)
    reached = []
    for step in range(3000):
        sparsity = 1 - GATE.open_probability(log_alpha).mean()
        down.zero_grad()
        up.zero_grad()
        penalty(sparsity, warmup_target(step, 1000, target)).backward()
        down.step()
        up.step()
        with torch.no_grad():
            log_alpha.clamp_(-4.60517, 4.60517)
        reached.append(sparsity.item())
    assert reached[-1] == pytest.approx(target, abs=0.005)
    assert max(reached) < target + 0.03
