"""Whole models correct a latency table: the factors of the overhead and of each kind, with the right weight of noisy ones."""

from __future__ import annotations

import random

import pytest

from secateurs.latency.correct_table import correct
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.interleave import Samples
from secateurs.latency.table import LatencyTable

GROUPS = {f"layer.{layer}.{kind}": kind for layer in range(6) for kind in ("head", "intermediate")}
CURVES = {"head": LatencyCurve((0, 1, 12), (0.0, 1.0, 6.0)), "intermediate": LatencyCurve((0, 8, 96), (0.0, 1.5, 12.0))}
TABLE = LatencyTable(Environment(), 118.0, 10.0, CURVES, GROUPS)
TRUE = {"overhead": 1.6, "head": 0.8, "intermediate": 1.1}
"""Factors of the machine, like those that were found on one."""


def models(number: int, seed: int) -> dict[str, dict[str, int]]:
    """Kept counts whose shares of heads and of neurons vary independently, as those of ``spread_counts``."""
    chance = random.Random(seed)
    shares = {kind: chance.sample([(index + 0.5) / number for index in range(number)], number) for kind in CURVES}
    return {
        str(index): {name: round(CURVES[kind].units[-1] * shares[kind][index]) for name, kind in GROUPS.items()}
        for index in range(number)
    }


def true_ms(counts: dict[str, int]) -> float:
    parts = [TRUE[GROUPS[name]] * TABLE.group_cost(name, kept) for name, kept in counts.items()]
    return TRUE["overhead"] * TABLE.overhead_ms + sum(parts)


def samples(chosen: dict[str, dict[str, int]], noise: float, seed: int = 0) -> Samples:
    chance = random.Random(seed)
    times = {"dense": TABLE.dense_ms, **{name: true_ms(counts) for name, counts in chosen.items()}}
    return Samples({name: [ms * chance.gauss(1, noise) for _ in range(15)] for name, ms in times.items()})


def mean_error(table: LatencyTable, fresh: dict[str, dict[str, int]]) -> float:
    return sum(abs(float(table(counts)) / true_ms(counts) - 1) for counts in fresh.values()) / len(fresh)


def test_factors_are_found_from_exact_timings() -> None:
    chosen = models(8, seed=1)
    found = correct(TABLE, samples(chosen, 0.0), chosen, "dense")
    assert {name: found.correction[name] for name in TRUE} == pytest.approx(TRUE, abs=0.05)
    assert found.dense_ms == TABLE.dense_ms
    assert found.overhead_ms == pytest.approx(found.correction["overhead"] * TABLE.overhead_ms)
    assert found.curves["head"].ms == pytest.approx([found.correction["head"] * ms for ms in CURVES["head"].ms])
    assert found.correction["mean_error_before"] > 0.05 > 0.01 > found.correction["mean_error_after"]


@pytest.mark.parametrize("seed", range(5))
def test_fresh_models_are_predicted_better_by_noisy_timings_too(seed: int) -> None:
    chosen, fresh = models(8, seed), models(20, seed + 100)
    found = correct(TABLE, samples(chosen, 0.04, seed), chosen, "dense")
    assert mean_error(TABLE, fresh) > 0.05
    assert mean_error(found, fresh) < 0.025
    assert mean_error(found, fresh) < mean_error(TABLE, fresh) / 2


def test_a_right_table_is_hardly_moved_by_noise() -> None:
    chosen = models(8, seed=2)
    right = correct(TABLE, samples(chosen, 0.0), chosen, "dense")
    moved = correct(right, samples(chosen, 0.05, 3), chosen, "dense")
    assert all(abs(moved.correction[kind] - 1) < 0.1 for kind in ("head", "intermediate"))


def test_the_overhead_stays_below_the_dense_model() -> None:
    """Timings of pruned models as slow as the dense one say nothing; a target must stay reachable."""
    chosen = models(8, seed=4)
    flat = Samples({name: [TABLE.dense_ms] * 9 for name in ("dense", *chosen)})
    found = correct(TABLE, flat, chosen, "dense")
    assert found.overhead_ms < found.dense_ms
    assert found.largest_speedup > 1
