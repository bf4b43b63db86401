"""The contract with a made-up clock: corrected until it holds, recorded so that it ends the same when taken up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_run
from secateurs import contract
from secateurs.families import discover
from secateurs.job import Job
from secateurs.latency_table import LatencyTable
from secateurs.mask import Mask
from secateurs.methods._even import even_counts
from secateurs.stages.measure import Measurement, Speed, Timing
from secateurs.target import Budget, Speedup
from tiny_models import tiny_model


class Even:
    """Keeps the first units of every group, evenly; counts its calls."""

    def __init__(self, job: Job) -> None:
        self.job, self.calls = job, 0

    def choose(self, budget: Budget) -> Mask:
        self.calls += 1
        counts = even_counts(self.job.structure, budget)
        return Mask.from_units(self.job.structure, {name: torch.arange(kept) for name, kept in counts.items()})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = tiny_model("bert", intermediate_size=400).float()
    return Job(model, discover(model), [], None, tmp_path)


@pytest.fixture
def table(job: Job, tmp_path: Path) -> LatencyTable:
    return LatencyTable.load(tiny_run.table(job.structure, tmp_path / "table.json"))


def clock(table: LatencyTable, hidden_ms: float):
    """The truth: the table, plus time it does not know of."""

    def measure(mask: Mask) -> Measurement:
        ms = float(table(mask.counts)) + hidden_ms
        speed = table.dense_ms / ms
        timing = Timing(ms, ms, ms, 1.0, 1, 0.0)
        return Measurement(
            table.environment, "dense", {"dense": timing, "pruned": timing}, {"pruned": Speed(speed, speed, speed)}
        )

    return measure


@pytest.mark.parametrize("hidden_ms", [0.0, 0.4, -0.3])
@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_a_wrong_table_is_corrected(job: Job, table: LatencyTable, hidden_ms: float, target: float) -> None:
    pruner = Even(job)
    best = contract.keep(Speedup(target), table, pruner, clock(table, hidden_ms), job.folder / "t", tolerance=0.05)
    assert best.met
    assert target <= best.speed.median <= 1.05 * target
    assert pruner.calls <= 4
    assert hidden_ms == 0 or pruner.calls > 1


def test_taken_up_again_nothing_is_pruned_twice(job: Job, table: LatencyTable) -> None:
    arguments = (Speedup(2.0), table)
    first = contract.keep(*arguments, Even(job), clock(table, 0.4), job.folder / "t", tolerance=0.05)

    def never(mask: Mask) -> Measurement:
        raise AssertionError("measured again")

    pruner = Even(job)
    second = contract.keep(*arguments, pruner, never, job.folder / "t", tolerance=0.05)
    assert pruner.calls == 0
    assert second.mask == first.mask
    assert second.speed == first.speed


def test_a_foreign_table_is_taken_at_its_word(job: Job, table: LatencyTable) -> None:
    pruner = Even(job)
    arguments = (Speedup(2.0), table, pruner, clock(table, 1.0), job.folder / "t")
    best = contract.keep(*arguments, tolerance=0.05, enforce=False)
    assert pruner.calls == 1
    assert best.met is None  # not judged
    assert best.predicted >= 2.0


def test_a_choice_that_was_timed_is_not_timed_again(job: Job, table: LatencyTable) -> None:
    """Three choices in all: too slow, too fast, and nothing between them."""

    class Coarse(Even):
        def choose(self, budget: Budget) -> Mask:
            self.calls += 1
            share = min(1.0, int(4 * (budget.limit - budget.cost.fixed) / (table.dense_ms - table.fixed)) / 4)
            units = {group.name: torch.arange(int(group.size * share)) for group in self.job.structure}
            return Mask.from_units(self.job.structure, units)

    timed: list[Mask] = []
    truth = clock(table, 0.3)

    def measure(mask: Mask) -> Measurement:
        timed.append(mask)
        return truth(mask)

    best = contract.keep(Speedup(1.7), table, Coarse(job), measure, job.folder / "t", tolerance=0.01)
    assert all(mask != other for i, mask in enumerate(timed) for other in timed[:i])
    assert not best.met
    assert best.speed.median >= 1.7  # faster than asked rather than slower
