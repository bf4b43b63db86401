"""Expected costs of gates, in milliseconds and in parameters."""

from __future__ import annotations

import pytest
import torch
import transformers

from secateurs.gates.gates import Gates
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_size
from tiny_models import tiny_model

TABLE = LatencyTable(
    Environment(),
    dense_ms=19.0,
    overhead_ms=4.0,
    curves={
        "heads": LatencyCurve((0, 1, 2, 4), (0.0, 2.0, 3.0, 5.0)),
        "neurons": LatencyCurve((0, 8, 64), (0.0, 3.0, 10.0)),
    },
    groups={"a": "heads", "b": "neurons"},
)


@pytest.mark.parametrize(("heads", "neurons"), [(4, 64), (1, 8), (2, 36), (0, 64)])
def test_expected_latency_of_groups_that_are_certainly_present_is_the_latency(heads: int, neurons: int) -> None:
    counts = {"a": heads, "b": neurons}
    assert TABLE.expected({"a": 1.0, "b": 1.0}, counts) == pytest.approx(float(TABLE(counts)))


def test_expected_latency_weights_the_fixed_cost_of_the_first_unit() -> None:
    counts = {"a": 1, "b": 8}
    assert TABLE.expected({"a": 0.0, "b": 0.0}, counts) == TABLE.overhead_ms
    assert TABLE.expected({"a": 0.5, "b": 0.25}, counts) == pytest.approx(4.0 + 0.5 * 2.0 + 0.25 * 3.0)


@pytest.mark.parametrize("hidden", [False, True])
def test_costs_of_groups_add_up(hidden: bool) -> None:
    """Additive costs let a knapsack over groups meet a budget in parameters."""
    model = tiny_model("bert")
    structure = discover(model, hidden=hidden)
    cost = ParameterCost.of(model, structure).of_groups()
    counts = {group.name: group.size // 2 for group in structure}
    total = cost.fixed + sum(cost.group_cost(name, kept) for name, kept in counts.items())
    assert total == cost({**cost.sizes, **structure.sizes, **counts})


def test_the_sparsity_of_bert_base_is_counted_as_published() -> None:
    """The layers have 85,054,464 parameters.

    The prunable ones exclude the 36,864 parameters of norms and the 18,432 biases that no cut removes.
    """
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig())
    structure = discover(model, hidden=True)
    cost = ParameterCost.of(model, structure)
    assert layer_size(model, structure) == 85_054_464
    assert cost.of_groups().prunable(cost.sizes) == 85_017_600 - 12 * 2 * 768
    one_head = {**cost.sizes, "layer.3.heads": 11}
    assert cost(cost.sizes) - cost(one_head) == 4 * 64 * 768 + 3 * 64
    assert cost.sparsity(cost.sizes) == 0
    narrow = {**cost.sizes, "hidden": 700}
    assert cost.sparsity(narrow) == pytest.approx(68 / 768, abs=1e-3)
    embeddings = (30_522 + 512 + 2) * 68
    assert cost(cost.sizes) - cost(narrow) > 85_017_600 * 68 / 768 + embeddings


def test_expected_sparsity_matches_the_published_one() -> None:
    """All gates have log_alpha 0. The tolerance covers biases, which the authors count differently."""
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig())
    structure = discover(model, hidden=True)
    gates = Gates(structure)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.zero_()
    cost = ParameterCost.of(model, structure).of_groups()
    sparsity = 1 - cost.expected(*gates.expected()) / float(cost(cost.sizes))
    prunable = cost.expected_sparsity(*gates.expected())
    assert float(prunable.detach()) == pytest.approx(0.424751, abs=1e-3)
    assert float(sparsity.detach()) < float(prunable.detach())
    without = ParameterCost.of(model, discover(model))
    fine = without.expected_sparsity(*Gates(discover(model)).expected())
    assert float(fine.detach()) == pytest.approx(0.004139, abs=2e-3)
