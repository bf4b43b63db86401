"""The speed-up contract with a simulated clock: the table is corrected until the target holds, and attempts are recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tiny_run
from secateurs.artifacts import read_json
from secateurs.latency.compare import Measurement, Speed, Timing
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.pipeline import contract
from secateurs.structure.allocation import Allocation
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget, Speedup
from tiny_models import tiny_model

Measure = Callable[[Allocation], Measurement]


class Even(Fitted):
    """Keeps the same fraction of every group, and counts the calls of ``allocate``."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self.calls = structure, 0

    def allocate(self, budget: Budget) -> Allocation:
        self.calls += 1
        return even_counts(self.structure, budget)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        raise AssertionError("the contract must not write weights")

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> Any:
        raise AssertionError("the contract must not train")


@pytest.fixture(scope="module")
def structure() -> Structure:
    return discover(tiny_model("bert", intermediate_size=400))


@pytest.fixture(scope="module")
def table(structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    return LatencyTable.load(tiny_run.table(structure, tmp_path_factory.mktemp("contract") / "table.json"))


def clock(table: LatencyTable, hidden_ms: float) -> Measure:
    """Measures the time of the table plus ``hidden_ms`` milliseconds that the table leaves out."""

    def measure(allocation: Allocation) -> Measurement:
        ms = float(table(allocation)) + hidden_ms
        speed = table.dense_ms / ms
        timing = Timing(ms, ms, ms, 1.0, 1, 0.0)
        return Measurement(
            table.environment, "dense", {"dense": timing, "pruned": timing}, {"pruned": Speed(speed, speed, speed)}
        )

    return measure


@pytest.mark.parametrize("hidden_ms", [0.0, 0.4, -0.3])
@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_a_wrong_table_is_corrected(
    structure: Structure, table: LatencyTable, tmp_path: Path, hidden_ms: float, target: float
) -> None:
    fitted = Even(structure)
    best = contract.meet(Speedup(target), table, fitted, clock(table, hidden_ms), tmp_path, tolerance=0.05)
    assert best.met
    assert target <= best.speed.median <= 1.05 * target
    assert fitted.calls <= 4
    assert hidden_ms == 0 or fitted.calls > 1


def test_a_resumed_contract_allocates_and_measures_nothing(
    structure: Structure, table: LatencyTable, tmp_path: Path
) -> None:
    first = contract.meet(Speedup(2.0), table, Even(structure), clock(table, 0.4), tmp_path, tolerance=0.05)
    assert first.number > 1
    assert read_json(tmp_path / f"attempt-{first.number}" / "measured.json")["allocation"] == first.allocation

    def never(allocation: Allocation) -> Measurement:
        raise AssertionError("measured again")

    fitted = Even(structure)
    second = contract.meet(Speedup(2.0), table, fitted, never, tmp_path, tolerance=0.05)
    assert fitted.calls == 0
    assert second == first


def test_a_contract_killed_between_attempts_goes_on(structure: Structure, table: LatencyTable, tmp_path: Path) -> None:
    """The attempts that are on disk are not repeated, and the corrected budgets follow from them."""
    truth = clock(table, 0.4)
    fitted = Even(structure)
    uninterrupted = contract.meet(Speedup(2.0), table, fitted, truth, tmp_path / "one", tolerance=0.05)
    assert uninterrupted.number > 1
    timed: list[Allocation] = []

    def killed(allocation: Allocation) -> Measurement:
        if timed:
            raise KeyboardInterrupt
        timed.append(allocation)
        return truth(allocation)

    with pytest.raises(KeyboardInterrupt):
        contract.meet(Speedup(2.0), table, Even(structure), killed, tmp_path / "two", tolerance=0.05)
    resumed = Even(structure)
    assert contract.meet(Speedup(2.0), table, resumed, truth, tmp_path / "two", tolerance=0.05) == uninterrupted
    assert resumed.calls == fitted.calls - 1


def test_timings_do_not_correct_a_table_of_another_machine(
    structure: Structure, table: LatencyTable, tmp_path: Path
) -> None:
    fitted = Even(structure)
    best = contract.meet(Speedup(2.0), table, fitted, clock(table, 1.0), tmp_path, tolerance=0.05, enforce=False)
    assert fitted.calls == 1
    assert best.met is None
    assert best.predicted >= 2.0


def test_no_allocation_is_timed_twice(structure: Structure, table: LatencyTable, tmp_path: Path) -> None:
    """There are few allocations; the target lies between the speeds of two of them."""

    class Coarse(Even):
        def allocate(self, budget: Budget) -> Allocation:
            self.calls += 1
            share = min(1.0, int(4 * (budget.limit - budget.cost.fixed) / (table.dense_ms - table.fixed)) / 4)
            return {group.name: int(group.size * share) for group in self.structure}

    timed: list[Allocation] = []
    truth = clock(table, 0.3)

    def measure(allocation: Allocation) -> Measurement:
        timed.append(allocation)
        return truth(allocation)

    best = contract.meet(Speedup(1.7), table, Coarse(structure), measure, tmp_path, tolerance=0.01)
    assert all(one != other for index, one in enumerate(timed) for other in timed[:index])
    assert not best.met
    assert best.speed.median >= 1.7  # faster than asked is better than slower
