"""``open_counts``: from learned gates to an allocation within a budget."""

from __future__ import annotations

import pytest
import torch

from secateurs.errors import TargetUnreachable
from secateurs.gates.gates import Gates
from secateurs.gates.open_counts import open_counts
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.structure.cost import ParameterCost
from secateurs.structure.cut import Kind
from secateurs.structure.families import discover
from secateurs.structure.target import Budget, Sparsity, Speedup
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from tiny_models import tiny_model

MODEL = tiny_model("bert", hidden_size=64, num_attention_heads=16, intermediate_size=96)
STRUCTURE = discover(MODEL)
COST = ParameterCost.of(MODEL, STRUCTURE)


def gates(seed: int, coarse: float = 2.0) -> Gates:
    learned = Gates(STRUCTURE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        learned.fine.copy_(torch.randn(learned.fine.shape, generator=generator) * 3)
        learned.coarse.fill_(coarse)
    return learned


def table(multiple: int = 8) -> LatencyTable:
    curves = {
        "head": LatencyCurve((0, 1, 16), (0.0, 0.2, 3.2)),
        "intermediate": LatencyCurve((0, 8, 96), (0.0, 0.5, 6.0), multiple=multiple),
    }
    return LatencyTable(Environment(), 1.0 + 9.2 * 3, 1.0, curves, {group.name: str(group.kind) for group in STRUCTURE})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9, 0.97])
def test_the_sparsity_is_met_up_to_one_unit(seed: int, sparsity: float) -> None:
    counts = open_counts(gates(seed), Sparsity(sparsity).budget(COST), STRUCTURE)
    realised = float(COST.sparsity(counts))
    largest_unit = 4 * 64 * 4 / float(COST.prunable(COST.sizes))
    assert 0 <= realised - sparsity <= largest_unit


@pytest.mark.parametrize("speedup", [1.5, 3.0, 8.0])
def test_widths_are_multiples_and_the_time_is_met(speedup: float) -> None:
    budget = Speedup(speedup).budget(table())
    counts = open_counts(gates(0), budget, STRUCTURE)
    assert float(table()(counts)) <= budget.limit
    assert float(table()(counts)) >= 0.85 * budget.limit
    assert all(counts[group.name] % 8 == 0 for group in STRUCTURE if group.kind is Kind.INTERMEDIATE)


def test_a_smaller_budget_keeps_a_subset() -> None:
    learned = gates(1)
    large, small = (
        learned.opened(open_counts(learned, Sparsity(value).budget(COST), STRUCTURE)).mask() for value in (0.5, 0.55)
    )
    assert (small & large) == small


def test_closed_groups_are_reopened_only_if_too_much_is_removed() -> None:
    learned = gates(2)
    with torch.no_grad():
        learned.coarse.copy_(torch.tensor([-3.0, -2.5, -3.5, -2.0, -4.0, -4.5]))
    names = list(learned.names)
    some = open_counts(learned, Sparsity(0.9).budget(COST), STRUCTURE)
    opened = [name for name in names if some[name]]
    assert opened == [names[3]]  # the closed group with the highest open probability
    with torch.no_grad():
        learned.coarse[:3] = 2.0
    kept = open_counts(learned, Sparsity(0.9).budget(COST), STRUCTURE)
    assert all(kept[name] == 0 for name in names[3:])


def test_nearly_closed_gates_keep_no_unit() -> None:
    """Counted by expectation, the 80 nearly closed gates of a group would keep 4 units whose weights are almost 0."""
    learned = gates(3)
    with torch.no_grad():
        learned.coarse.fill_(4.6)
        for index, own in enumerate(learned.fine.split(learned.sizes)):
            own.fill_(-4.6)
            own[: (4, 16)[index % 2]] = 4.6
    wanted = {name: (4, 16)[index % 2] for index, name in enumerate(learned.names)}
    limit = float(COST({**COST.sizes, **wanted}))
    counts = open_counts(learned, Budget(limit, COST), STRUCTURE)
    assert {name: counts[name] for name in wanted} == wanted


def test_a_budget_below_the_overhead_is_refused() -> None:
    with pytest.raises(TargetUnreachable):
        open_counts(gates(0), Budget(0.5, table()), STRUCTURE)


def test_a_rank_that_costs_as_much_as_its_matrix_becomes_the_full_rank() -> None:
    """From rank 24 of 64 on, two factors are as slow as the matrix in this table: no rank from 24 to 63 may be kept."""
    model = tiny_model("bert", hidden_size=64, num_attention_heads=16, intermediate_size=96).requires_grad_(False)
    factorize(model, matrices(model))
    ranks = rank_groups(model)
    curve = LatencyCurve((0, 1, 24, 32, 64), (0.0, 0.1, 2.4, 2.4, 2.4), max_factored_rank=32)
    priced = LatencyTable(Environment(), 60.0, 1.0, {"rank": curve}, {group.name: "rank" for group in ranks})
    learned = Gates(ranks, coarse=False, distribution=HardConcrete(beta=1.0))
    with torch.no_grad():
        learned.fine.copy_(torch.randn(learned.fine.shape, generator=torch.Generator().manual_seed(0)) * 3)
    seen = set()
    for limit in (20.0, 30.0, 35.0, 40.0):
        counts = open_counts(learned, Budget(limit, priced), ranks)
        assert float(priced(counts)) <= limit
        seen |= set(counts.values())
    assert {count for count in seen if count >= 24} == {64}
    assert any(0 < count < 24 for count in seen)
