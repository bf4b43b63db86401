"""Simulate the speed-up contract: how often is "met" true, and how often does the reported interval hold the true speed-up?

A simulated model has one group of 2000 units, whose time is linear; the latency table is wrong by up to 8 %. A process sees
every speed-up through one factor that is drawn once for the process, and each of its rounds through noise of its own. The
true speed-up is the median over processes. The contract runs as in a real run, with its own choices after every miss.

    python benchmarks/contract_simulation.py --runs 2000 --out benchmarks/results/contract.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.latency.compare import Measurement, Speed, Timing
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.pipeline.contract import SHORTFALL, STEERING_PROCESSES, Contract
from secateurs.structure.allocation import Allocation
from secateurs.structure.target import Budget, Speedup

UNITS, DENSE_MS, FIXED_MS = 2000, 100.0, 5.0
ROUNDS = 8


class Linear(Fitted):
    """A method with one group, whose units cost the same each."""

    def allocate(self, budget: Budget) -> Allocation:
        unit = (DENSE_MS - FIXED_MS) / UNITS
        return {"group": max(0, min(UNITS, int((budget.limit - budget.cost.fixed) / unit)))}

    def apply(self, allocation: Allocation, folder: str) -> Any:
        raise AssertionError("the contract must not write weights")

    def finetune(self, teacher: Any, mask: Any, folder: str) -> Any:
        raise AssertionError("the contract must not train")


@dataclass
class Machine:
    """A simulated machine.

    Args:
        within: standard deviation of a round, relative.
        between: standard deviation of a process, relative.
        error: relative error of the latency table.
        chance: source of the noise.
    """

    within: float
    between: float
    error: float
    chance: np.random.Generator

    def true(self, allocation: Allocation) -> float:
        """True speed-up of an allocation."""
        removable = (DENSE_MS - FIXED_MS) * allocation["group"] / UNITS
        return DENSE_MS / ((FIXED_MS + removable) * (1 + self.error))

    def timed(self, processes: int) -> Callable[[Allocation], Speed]:
        """A measurement in several processes."""

        def measure(allocation: Allocation) -> Speed:
            ratios = []
            for _ in range(processes):
                place = self.chance.normal(0, self.between)
                rounds = self.chance.normal(0, self.within, (2, ROUNDS))
                ratios.append(self.true(allocation) * np.exp(place + np.median(rounds[0] - rounds[1])))
            return Speed.of_processes(ratios)

        return measure


def _measurement(speed: Speed) -> Measurement:
    timings = {name: Timing(ms, ms, ms, 1.0, ROUNDS, 0.0) for name, ms in (("dense", DENSE_MS), ("pruned", 1.0))}
    return Measurement(Environment(), "dense", timings, {"pruned": speed})


def simulate(within: float, between: float, processes: int, runs: int, seed: int) -> dict[str, float]:
    """Meet random targets on simulated machines.

    Args:
        within: standard deviation of a round, relative.
        between: standard deviation of a process, relative.
        processes: number of processes of a confirmation.
        runs: number of simulated runs.
        seed: seed of everything random.

    Returns:
        Fractions of the runs, and means over them.
    """
    curve = LatencyCurve((0, 1, UNITS), (0.0, (DENSE_MS - FIXED_MS) / UNITS, DENSE_MS - FIXED_MS))
    table = LatencyTable(Environment(), DENSE_MS, FIXED_MS, {"c": curve}, {"group": "c"})
    chance = np.random.default_rng(seed)
    rows = []
    for _ in range(runs):
        machine = Machine(within, between, chance.uniform(-0.08, 0.08), chance)
        target = Speedup(chance.uniform(1.4, 6.0))
        with tempfile.TemporaryDirectory() as folder:
            contract = Contract(
                target, target.budget(table), table, Linear(), machine.timed(STEERING_PROCESSES), Path(folder),
                tolerance=0.05, processes=processes,
            )  # fmt: skip
            while not contract.ended and (attempt := contract.settle()).confirmed is None:
                contract.confirm(attempt, _measurement(machine.timed(processes)(attempt.allocation)))
        last = contract.built[-1]
        assert last.confirmed is not None
        true = machine.true(last.allocation)
        rows.append(
            (
                bool(last.met),
                true < (1 - SHORTFALL) * target.value,
                last.confirmed.low <= true <= last.confirmed.high,
                true / target.value,
                len(contract.built),
                len(contract.attempts),
            )
        )
    met, slow, covered, excess, built, attempts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return {
        "within": within,
        "between": between,
        "processes": processes,
        "runs": runs,
        "met": met.mean(),
        "met_but_untrue": (met * slow).sum() / met.sum(),
        "covered": covered.mean(),
        "true_over_target": float(np.median(excess)),
        "models_built": built.mean(),
        "allocations_timed": attempts.mean(),
    }


def main() -> None:
    """Print one row per kind of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for processes in given.processes:
        for within, between in ((0.01, 0.03), (0.02, 0.03), (0.04, 0.03), (0.01, 0.005), (0.02, 0.0)):
            rows.append(simulate(within, between, processes, given.runs, given.seed))
            print(" ".join(f"{name}={value:.4g}" for name, value in rows[-1].items()), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"seed": given.seed, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
