"""Fitting to the pruned model against plain least squares, and what it is for: outputs nearer to the dense model's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from secateurs.families import discover, model_types
from secateurs.job import Job
from secateurs.methods._context import in_context
from secateurs.stages.calibrate import calibrate
from secateurs.stages.levels import Level, LevelDatabase, Projection
from secateurs.stages.sequential import Sums, in_order
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group
from tiny_models import DECODERS, batch, tiny_model


def prepared(model_type: str):
    model = tiny_model(model_type)
    structure = discover(model)
    batches = [dict(batch(length=12, padding="right", seed=seed)) for seed in range(12)]
    stitch = Stitch(model, structure)
    dense = {group.name: Projection(stitch.weight(group.name), stitch.bias(group.name)) for group in structure}
    database = LevelDatabase.build(structure, dense, calibrate(model, structure, batches))
    levels = {group.name: database.level(group.name, max(1, group.size // 2)) for group in structure}
    return model, structure, batches, stitch, levels


def refit(stitch: Stitch, levels: dict[str, Level], batches: list, damping: float) -> dict[str, Level]:
    """Every projection solved again on the units of its level."""

    def solve(group: Group, sums: Sums) -> Level:
        level = levels[group.name]
        return Level(level.units, *sums.solve(level.weight, level.bias, damping))

    return in_order(stitch, levels, batches, solve)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_the_first_projection_is_the_ridge_solution(model_type: str) -> None:
    """Nothing is pruned before it, so its inputs are dense and the answer can be written down."""
    model, structure, batches, stitch, levels = prepared(model_type)
    group = next(iter(structure))
    dense = copy.deepcopy(model)
    inputs, outputs = [], []

    def keep(module, args, output):
        inputs.append(args[0])
        outputs.append(output)

    handle = dense.get_submodule(group.reader).register_forward_hook(keep)
    with torch.no_grad():
        for one in batches:
            dense(**one)
    handle.remove()
    tokens = torch.cat([one["attention_mask"].bool().flatten() for one in batches])
    level = levels[group.name]
    columns = (level.units[:, None] * group.width + torch.arange(group.width)).flatten()
    x = torch.cat([part.flatten(0, -2) for part in inputs])[tokens][:, columns]
    t = torch.cat([part.flatten(0, -2) for part in outputs])[tokens]
    if level.bias is not None:
        x, t = x - x.mean(0), t - t.mean(0)
    gram = x.T @ x / len(x)
    ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    wanted = torch.linalg.solve(gram + ridge, x.T @ t / len(x) + ridge @ level.weight.T).T
    solved = refit(stitch, levels, batches, damping=0.1)[group.name]
    torch.testing.assert_close(solved.weight, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("model_type", model_types())
def test_the_stream_comes_nearer_to_the_dense_one(model_type: str) -> None:
    """On the tokens it was fitted to, every refitted stream is at least as near as the database's."""
    model, structure, batches, stitch, levels = prepared(model_type)
    dense = copy.deepcopy(model)
    last = list(structure)[-1].stream

    def stream(of) -> torch.Tensor:
        seen = []
        handle = of.get_submodule(last).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with torch.no_grad():
            for one in batches:
                of(**one)
        handle.remove()
        tokens = torch.cat([one["attention_mask"].bool().flatten() for one in batches])
        return torch.cat([part.flatten(0, -2) for part in seen])[tokens]

    wanted = stream(dense)
    for name, level in levels.items():
        stitch.install(name, level.units, level.weight, level.bias)
    before = (stream(model) - wanted).pow(2).mean()
    refit(stitch, levels, batches, damping=1e-4)
    after = (stream(model) - wanted).pow(2).mean()
    assert after < before
    assert model_type in DECODERS or after < 0.9 * before
    stitch.reset_all()
    torch.testing.assert_close(stream(model), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_in_context_every_group_is_fitted_behind_the_pruned_ones(model_type: str, tmp_path: Path) -> None:
    """The last group, observed whole with everything before it at its new level: moments, W* and a level by hand."""
    model, structure, batches, stitch, levels = prepared(model_type)
    job = Job(model, structure, batches, None, tmp_path)
    dense = {group.name: Projection(stitch.weight(group.name), stitch.bias(group.name)) for group in structure}
    database = LevelDatabase.build(structure, dense, calibrate(model, structure, batches))
    profile = {name: len(level.units) for name, level in levels.items()}
    emptied = next(iter(structure)).name
    profile[emptied] = 0
    found = in_context(stitch, database, profile, job, damping=0.01, towards=0.1, padding=False)

    group = list(structure)[-1]
    stitch.reset(group.name)
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule(group.reader).register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    with torch.no_grad():
        for one in batches:
            model(**one)
    handle.remove()
    tokens = torch.cat([one["attention_mask"].bool().flatten() for one in batches])
    x = torch.cat([part.flatten(0, -2) for part in inputs])[tokens].double()
    torch.testing.assert_close(found.moments[group.name].gram, x.T @ x, rtol=1e-4, atol=1e-4)
    assert found.moments[group.name].count == len(x)

    level = found.level(group.name, profile[group.name])
    columns = (level.units[:, None] * group.width + torch.arange(group.width)).flatten()
    hessian = found.hessian(group.name)
    kept = torch.linalg.solve(
        hessian[columns][:, columns], hessian[columns] @ found.projections[group.name].weight.double().T
    )
    torch.testing.assert_close(level.weight.double(), kept.T, rtol=1e-4, atol=1e-5)
    assert len(found.level(emptied, 0).units) == 0
    assert len(found.level(emptied, 1).units) == 1
