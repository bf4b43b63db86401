"""The contract under simulated noise: few of the kept promises are untrue, and the interval holds the true speed-up."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from contract_simulation import simulate


def test_met_is_true_and_the_interval_covers() -> None:
    """With 200 runs and a coverage of 95 %, less than 90 % or more than 99 % has a probability of about 0.004."""
    result = simulate(within=0.02, between=0.03, processes=10, runs=200, seed=1)
    assert result["met_but_untrue"] <= 0.03
    assert 0.90 <= result["covered"] <= 0.99
    assert result["met"] >= 0.9
