"""The contract under simulated noise: few of the kept promises are untrue, and the interval holds the true speed-up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from contract_simulation import simulate

RUNS = 120
RARE = 0.0005
"""Probability of a count beyond each bound if the rate is the true one: 0.009 for the eighteen bounds of the six cases."""


@pytest.mark.parametrize("processes", [5, 10])
@pytest.mark.parametrize("within", [0.01, 0.02, 0.04])
def test_met_is_true_and_the_interval_covers(monkeypatch: pytest.MonkeyPatch, within: float, processes: int) -> None:
    """Of 120 intervals with a coverage of 95 %, 105 to 120 hold the true speed-up: the bounds are binomial.

    A promise that was met is untrue with a probability of 2.5 % at most, where the interval lies above the true speed-up.
    """
    monkeypatch.setattr("secateurs.pipeline.contract.write_attempt", lambda *_: None)  # no run is resumed
    result = simulate(within=within, between=0.03, processes=processes, runs=RUNS, seed=1)
    covered = round(result["covered"] * RUNS)
    assert binom.ppf(RARE, RUNS, 0.95) <= covered <= binom.ppf(1 - RARE, RUNS, 0.95)
    met = round(result["met"] * RUNS)
    assert round(result["met_but_untrue"] * met) <= binom.ppf(1 - RARE, met, 0.025)
    assert result["met"] >= 0.9
