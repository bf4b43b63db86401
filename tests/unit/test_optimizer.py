"""``AdamWWithSGD`` against AdamW and SGD alone, with a schedule, and after loading its state."""

from __future__ import annotations

import copy
from typing import Any

import torch

from secateurs.training.optimizer import PLAIN_SGD, AdamWWithSGD, build_optimizer


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([0.5]))]


def groups(weight: torch.nn.Parameter, multiplier: torch.nn.Parameter) -> list[dict[str, Any]]:
    return [{"params": [weight]}, {"params": [multiplier], "lr": 10.0, "maximize": True, PLAIN_SGD: True}]


def take_step(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, multiplier: torch.nn.Parameter) -> None:
    optimizer.zero_grad()
    (weight.square().sum() + multiplier.sum() * (weight.sum() - 0.25)).backward()
    optimizer.step()


def test_each_group_moves_as_with_its_optimiser_alone() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    expected_weight, expected_multiplier = parameters()
    alone = torch.optim.AdamW([expected_weight], lr=1e-2, weight_decay=0.0, fused=True)
    for _ in range(5):
        take_step(optimizer, weight, multiplier)
        alone.zero_grad()
        gap = expected_weight.sum() - 0.25
        loss = expected_weight.square().sum() + expected_multiplier.detach().sum() * gap
        loss.backward()
        alone.step()
        expected_multiplier.data += (
            10.0 * gap.item()
        )  # multiplier + rate * gap, which is constant where the target is met
        assert torch.equal(weight, expected_weight)
        torch.testing.assert_close(multiplier, expected_multiplier)


def test_the_schedule_sets_the_rates_of_both() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 0.0, lambda step: 0.5])
    before = weight.detach().clone(), multiplier.detach().clone()
    take_step(optimizer, weight, multiplier)
    schedule.step()
    assert torch.equal(weight, before[0])
    torch.testing.assert_close(multiplier, before[1] + 5.0 * (before[0].sum() - 0.25))


def test_training_continues_from_a_loaded_state() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    take_step(optimizer, weight, multiplier)
    state, values = copy.deepcopy(optimizer.state_dict()), [weight.detach().clone(), multiplier.detach().clone()]
    take_step(optimizer, weight, multiplier)
    again = [torch.nn.Parameter(value) for value in values]
    other = build_optimizer(groups(*again), 1e-2)
    other.load_state_dict(state)
    take_step(other, *again)
    assert torch.equal(weight, again[0])
    assert torch.equal(multiplier, again[1])


def test_without_a_marked_group_it_is_adamw() -> None:
    weight, multiplier = parameters()
    assert type(build_optimizer([{"params": [weight]}], 1e-2)) is torch.optim.AdamW
    assert isinstance(build_optimizer(groups(weight, multiplier), 1e-2), AdamWWithSGD)
