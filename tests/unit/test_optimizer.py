"""AdamW with plain gradient steps beside it, against the two alone; and taken up again from its state."""

from __future__ import annotations

import copy
from typing import Any

import torch

from secateurs.optimizer import PLAIN, AdamWWithSGD, build_optimizer


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([0.5]))]


def groups(weight: torch.nn.Parameter, multiplier: torch.nn.Parameter) -> list[dict[str, Any]]:
    return [{"params": [weight]}, {"params": [multiplier], "lr": 10.0, "maximize": True, PLAIN: True}]


def stepped(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, multiplier: torch.nn.Parameter) -> None:
    optimizer.zero_grad()
    (weight.square().sum() + multiplier.sum() * (weight.sum() - 0.25)).backward()
    optimizer.step()


def test_each_group_moves_as_its_own_optimiser_moves_it() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    twin, gap = parameters()
    alone = torch.optim.AdamW([twin], lr=1e-2, weight_decay=0.0, fused=True)
    for _ in range(5):
        stepped(optimizer, weight, multiplier)
        alone.zero_grad()
        loss = twin.square().sum() + gap.detach().sum() * (twin.sum() - 0.25)
        climb = float(twin.detach().sum() - 0.25)
        loss.backward()
        alone.step()
        gap.data += 10.0 * climb  # multiplier + rate * gap: it stands still where the target is met
        assert torch.equal(weight, twin)
        torch.testing.assert_close(multiplier, gap)


def test_a_rate_set_from_outside_counts() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 0.0, lambda step: 0.5])
    before = weight.detach().clone(), multiplier.detach().clone()
    stepped(optimizer, weight, multiplier)
    schedule.step()
    assert torch.equal(weight, before[0])
    torch.testing.assert_close(multiplier, before[1] + 5.0 * (before[0].sum() - 0.25))


def test_what_is_saved_goes_on_as_if_nothing_had_happened() -> None:
    weight, multiplier = parameters()
    optimizer = build_optimizer(groups(weight, multiplier), 1e-2)
    stepped(optimizer, weight, multiplier)
    state, values = copy.deepcopy(optimizer.state_dict()), [weight.detach().clone(), multiplier.detach().clone()]
    stepped(optimizer, weight, multiplier)
    again = [torch.nn.Parameter(value) for value in values]
    other = build_optimizer(groups(*again), 1e-2)
    other.load_state_dict(state)
    stepped(other, *again)
    assert torch.equal(weight, again[0])
    assert torch.equal(multiplier, again[1])


def test_without_such_a_group_it_is_adamw() -> None:
    weight, multiplier = parameters()
    assert type(build_optimizer([{"params": [weight]}], 1e-2)) is torch.optim.AdamW
    assert isinstance(build_optimizer(groups(weight, multiplier), 1e-2), AdamWWithSGD)
