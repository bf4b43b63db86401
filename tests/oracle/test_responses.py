"""The responses against their definition, and against a small step of the real model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle.refits import prepared
from secateurs.context import PruneContext
from secateurs.oneshot import backward
from secateurs.oneshot.levels import Level, LevelDatabase
from secateurs.oneshot.responses import responses
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.structure import Group

MODELS = ["bert", "gpt2", "llama", "bart", "opt"]


class LinearTask:
    """Compares the logits at the first two tokens of every text; every text has the same known direction."""

    def compared_outputs(self, outputs: Any, batch: Any) -> Tensor:
        return outputs.logits[:, :2].flatten(0, 1)

    def direction(self, teacher: Tensor, noise: Tensor) -> Tensor:
        return torch.linspace(-1, 1, teacher.shape[-1]).expand_as(teacher)


def projected(model: Any, batches: Any) -> Tensor:
    """``v . z`` of every text, in the order of the batches."""
    task = LinearTask()
    found = []
    with torch.no_grad():
        for batch in batches:
            rows = task.compared_outputs(model(**batch), batch)
            found.append((rows * task.direction(rows, rows)).sum(-1).unflatten(0, (-1, 2)).sum(1))
    return torch.cat(found)


def problem(model_type: str) -> tuple[Stitch, LevelDatabase, PruneContext]:
    stitch, database, context, _ = prepared(model_type)
    return stitch, database, replace(context, task=LinearTask())  # type: ignore[arg-type]


def part_of_the_way(stitch: Stitch, group: Group, level: Level, step: float) -> Level:
    """Dense weights, moved towards those of a level by a fraction."""
    full = torch.zeros(level.weight.shape[0], group.size * group.width)
    full[:, (level.units[:, None] * group.width + torch.arange(group.width)).flatten()] = level.weight.float()
    weight, bias = stitch.weight(group.name), stitch.bias(group.name)
    moved = None if bias is None or level.bias is None else bias + step * (level.bias - bias)
    return Level(torch.arange(group.size), weight + step * (full - weight), moved)


@pytest.mark.parametrize("model_type", MODELS)
def test_a_response_is_the_slope_towards_a_level(model_type: str) -> None:
    stitch, database, context = problem(model_type)
    kept = {group.name: tuple(range(group.size + 1)) for group in database.structure}
    found = responses(context, database, context.fit, kept, directions=1)
    stitch.model.double()
    exact = Stitch(stitch.model, stitch.structure)
    step = 1e-3  # some norms compute in float32
    for group in list(database.structure)[:4]:
        for count in (0, group.size // 2, group.size):
            level, ends = database.level(group.name, count), []
            for along in (step, -step):
                exact.install(group.name, part_of_the_way(exact, group, level, along))
                ends.append(projected(stitch.model, context.fit))
            exact.reset(group.name)
            slope = (ends[0] - ends[1]) / (2 * step)
            scale = found[group.name].abs().max()
            torch.testing.assert_close(found[group.name][:, count].double(), slope, rtol=5e-3, atol=2e-3 * float(scale))
        assert float(found[group.name][:, group.size].abs().max()) == 0.0


def test_every_sample_of_all_groups_is_the_same_text_in_the_same_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the texts are divided into parts, the responses of two directions stand in one order for all groups."""
    _, database, context = problem("bert")
    kept = {group.name: (0, group.size) for group in database.structure}
    at_once = responses(context, database, context.fit, kept, directions=2)
    length = context.fit[0]["input_ids"].shape[1]
    monkeypatch.setattr(backward, "TOKENS", length)  # one text at a time
    apart = responses(context, database, context.fit, kept, directions=2)
    texts = sum(len(batch["input_ids"]) for batch in context.fit)
    for name, own in at_once.items():
        assert own.shape == apart[name].shape == (2 * texts, 2)
        torch.testing.assert_close(own[:, 0].sort().values, apart[name][:, 0].sort().values, rtol=1e-3, atol=1e-5)
    pairs = {
        name: torch.stack([own[:, 0] for own in group.values()], 1) for name, group in (("a", at_once), ("b", apart))
    }
    order = {name: rows[rows[:, 0].argsort()] for name, rows in pairs.items()}
    torch.testing.assert_close(order["a"], order["b"], rtol=1e-3, atol=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    stitch, database, context = problem("bert")
    before = copy.deepcopy(stitch.model.state_dict())
    kept = {group.name: (0,) for group in database.structure}
    responses(context, database, context.fit, kept)
    assert all(torch.equal(value, before[name]) for name, value in stitch.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in stitch.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in stitch.model.modules())
