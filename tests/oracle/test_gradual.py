"""Gradual pruning: its schedule against the formula, and the components and single weights that follow the schedule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from secateurs.errors import TargetUnreachable
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.methods.baselines._scaled_components import ScaledComponents, ScalePruning
from secateurs.methods.baselines.agp_unstructured import (
    AGPUnstructured,
    SparseModel,
    Sparsifying,
    entry_groups,
    weights,
)
from secateurs.structure.cost import ParameterCost, share_of_zeros
from secateurs.structure.target import Budget, Sparsity
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.shrink import shrink
from secateurs.training.schedules import cubic_sparsity
from tiny_models import batch, tiny_model


def test_the_formula() -> None:
    begin, end, final, start = 3.0, 17.0, 0.9, 0.05
    for now in (3.0, 4.5, 10.0, 16.9, 17.0):
        wanted = final + (start - final) * (1 - (now - begin) / (end - begin)) ** 3
        assert cubic_sparsity(now, begin, end, final, start) == pytest.approx(wanted, abs=1e-12)
    assert cubic_sparsity(2.9, begin, end, final, start) == 0.0
    assert cubic_sparsity(40.0, begin, end, final, start) == final
    assert cubic_sparsity(3.0, begin, end, 0.02, start) == 0.02, "never above the final sparsity"
    values = [cubic_sparsity(now / 10, begin, end, final, start) for now in range(200)]
    assert values == sorted(values)


def scaled(model_type: str = "bert") -> ScaledComponents:
    model = tiny_model(model_type)
    factorize(model, matrices(model))
    learner = ScaledComponents(model, rank_groups(model)).double()
    with torch.no_grad():
        learner.scale.copy_(torch.randn(len(learner.scale), generator=torch.Generator().manual_seed(3)))
    return learner


def test_scales_follow_the_schedule_and_stay_pruned() -> None:
    learner = scaled()
    counts = {group.name: max(0, group.size // 4 - index % 3) for index, group in enumerate(learner.structure)}
    objective = ScalePruning(learner, None, counts, begin=0.1, end=0.8, start=0.05, rate=0.1)  # type: ignore[arg-type]
    objective.trained_module(learner)
    before = learner.mask()
    for step in range(1, 21):
        with torch.no_grad():  # like an optimiser, also change the pruned scales
            learner.scale.add_(torch.randn(len(learner.scale), generator=torch.Generator().manual_seed(step)))
        objective.after_step(learner, step, 20)
        mask = learner.mask()
        assert mask == mask & before, "pruned components stay pruned"
        for group in learner.structure:
            final = 1 - counts[group.name] / group.size
            wanted = group.size - round(group.size * cubic_sparsity(step / 20, 0.1, 0.8, final))
            assert mask.counts[group.name] == wanted
        before = mask
    assert before.counts == counts
    assert torch.equal(learner.scale == 0, ~learner.kept)


def test_the_smallest_scales_are_pruned() -> None:
    learner = scaled()
    first = next(iter(learner.structure))
    learner.prune({**learner.structure.sizes, first.name: 5})
    sizes = torch.randn(len(learner.scale), generator=torch.Generator().manual_seed(3))[: first.size].abs()
    assert set(learner.mask().units(first.name).tolist()) == set(sizes.topk(5).indices.tolist())


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_scales_fold_exactly(model_type: str) -> None:
    learner = scaled(model_type)
    learner.prune({group.name: index % 9 for index, group in enumerate(learner.structure)})
    inputs = batch(padding="right")
    with torch.no_grad():
        wanted = learner(**inputs).logits
        folded = copy.deepcopy(learner).folded()
        assert (folded(**inputs).logits - wanted).abs().max() < 1e-12
        small: Any = shrink(folded, learner.structure, learner.mask())
        assert (small(**inputs).logits - wanted).abs().max() < 1e-12


def test_only_kept_scales_get_gradients() -> None:
    learner = scaled()
    learner.prune({group.name: 3 for group in learner.structure})
    learner(**batch()).logits.square().mean().backward()
    assert learner.scale.grad is not None
    assert torch.equal(learner.scale.grad != 0, learner.kept)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_single_weights_follow_the_schedule(model_type: str) -> None:
    model = tiny_model(model_type)
    paths = weights(entry_groups(model, "all"))
    assert set(paths) == set(matrices(model))
    sparse = SparseModel(model, paths)
    objective = Sparsifying(sparse, None, 0.85, AGPUnstructured(begin=0.1, end=0.6))  # type: ignore[arg-type]
    objective.trained_module(sparse)
    pruned = {path: torch.zeros(()).bool() for path in paths}
    for step in range(1, 21):
        with torch.no_grad():
            for path in paths:
                original = model.get_parameter(f"{path}.weight_orig")
                original += 0.1 * torch.randn(original.shape, generator=torch.Generator().manual_seed(step))
        objective.after_step(sparse, step, 20)
        wanted = cubic_sparsity(step / 20, 0.1, 0.6, 0.85)
        for path in paths:
            zeros = model.get_buffer(f"{path}.weight_mask") == 0
            assert zeros.sum() == pytest.approx(wanted * zeros.numel(), abs=1)
            assert (zeros | ~pruned[path]).all()
            if not pruned[path].any() and zeros.any():  # the smallest weights are pruned first
                size = model.get_parameter(f"{path}.weight_orig").abs()
                assert size[zeros].max() <= size[~zeros].min()
            pruned[path] = zeros
    with torch.no_grad():
        masked = sparse(**batch()).logits
        folded: Any = sparse.folded()
        assert torch.equal(folded(**batch()).logits, masked)
    for path in paths:
        assert torch.equal(folded.get_parameter(f"{path}.weight") == 0, pruned[path])
        assert isinstance(folded.get_submodule(path).weight, nn.Parameter)
    assert not [name for name in folded.state_dict() if name.endswith(("_orig", "_mask"))]


def test_zeros_are_counted() -> None:
    model = tiny_model("bert")
    factorize(model, matrices(model))
    structure = rank_groups(model)
    assert share_of_zeros(model, structure) == 0.0
    entries = sum(model.get_parameter(cut.parameter).numel() for group in structure for cut in group.cuts)
    with torch.no_grad():
        model.get_parameter(structure.groups[0].cuts[0].parameter)[0, :7] = 0.0
    assert share_of_zeros(model, structure) == pytest.approx(7 / entries)


@pytest.mark.parametrize("sparsity", [0.2, 0.55, 0.9])
def test_an_even_allocation_of_parameters(sparsity: float) -> None:
    """Every group keeps the same fraction up to one component, and the budget is met up to one component."""
    dense = tiny_model("bert")
    model = copy.deepcopy(dense)
    factorize(model, matrices(model))
    structure = rank_groups(model)
    cost = ParameterCost.of(model, structure, dense)
    budget = Sparsity(sparsity).budget(cost)
    counts = even_counts(structure, budget)
    assert float(cost(counts)) <= budget.limit
    assert cost.sparsity(counts) == pytest.approx(sparsity, abs=0.005)
    shares = [counts[group.name] / group.size for group in structure]
    assert max(shares) - min(shares) <= 2 / min(group.size for group in structure)
    halves = {group.name: group.size // 2 for group in structure}
    fewer = even_counts(structure, budget, halves)
    assert all(fewer[name] <= half for name, half in halves.items())
    assert even_counts(structure, Budget(1e9, cost), halves) == structure.sizes


def test_a_budget_below_the_fixed_cost_is_unreachable() -> None:
    dense = tiny_model("bert")
    model = copy.deepcopy(dense)
    factorize(model, matrices(model))
    structure = rank_groups(model)
    with pytest.raises(TargetUnreachable, match=r"10\.00 parameters are less than the .* no cut can remove"):
        even_counts(structure, Budget(10.0, ParameterCost.of(model, structure, dense)))
    curve = LatencyCurve((0, 1, 40), (0.0, 0.1, 1.0))
    table = LatencyTable(Environment(), 20.0, 2.0, {"rank": curve}, {group.name: "rank" for group in structure})
    with pytest.raises(TargetUnreachable, match=r"1\.00 ms is less than the 2\.00 ms no cut can remove"):
        even_counts(structure, Budget(1.0, table))
