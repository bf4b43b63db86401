"""What the measurement of a latency table does about readings that scatter, or make no sense."""

from __future__ import annotations

import logging
import random

import pytest

from secateurs.latency import profile
from secateurs.latency.profile import measure_table
from secateurs.latency.random_models import random_counts
from secateurs.latency.timer import Reading
from secateurs.structure.families import discover
from tiny_latency import ONCE, SMALL, closure_modules
from tiny_models import tiny_model
from work_clock import work_clock


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert", auto="AutoModelForSequenceClassification")


def test_quick_is_shorter(bert) -> None:
    readings = []

    def count(run) -> Reading:
        readings.append(1)
        return work_clock(run)

    structure = discover(bert)
    measure_table(bert, structure, SMALL, timer=count, seconds=0.0, rounds=(5, 60))
    full = len(readings)
    measure_table(bert, structure, SMALL, timer=count, seconds=0.0, rounds=(5, 60), quick=True)
    assert (len(readings) - full) * 5 == full * 3


def test_noisy_readings_are_repeated_until_they_are_precise(bert, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = discover(bert)
    monkeypatch.setattr(profile, "PATIENCE", 1e9)
    scatter = random.Random(0)

    def readings(noise: float, **how) -> int:
        seen = []

        def read(run) -> Reading:
            seen.append(1)
            return Reading(work_clock(run).ms * (1 + noise * scatter.random()))

        measure_table(bert, structure, SMALL, timer=read, seconds=1e-6, rounds=(2, 60), **how)
        return len(seen)

    quiet, busy, busier = readings(0.0), readings(0.2), readings(0.5)
    assert quiet < busy < busier < 30 * quiet
    assert readings(0.5, quick=True) == quiet


def test_noise_is_recorded_and_flagged(bert, caplog: pytest.LogCaptureFixture) -> None:
    structure = discover(bert)
    with caplog.at_level(logging.WARNING):
        quiet = measure_table(bert, structure, SMALL, timer=work_clock, **ONCE)
    assert quiet.noise == 0
    assert not caplog.records

    def shared_core(run) -> Reading:
        return Reading(work_clock(run).ms, contention=1.8)

    with caplog.at_level(logging.WARNING):
        noisy = measure_table(bert, structure, SMALL, timer=shared_core, **ONCE)
    assert noisy.noise == pytest.approx(0.8)
    assert "noisy: 80 %" in caplog.text
    assert "--clock cpu --threads 1" in caplog.text


def test_curves_that_do_not_add_up_are_scaled_and_flagged(bert, caplog: pytest.LogCaptureFixture) -> None:
    def slow_alone(run) -> Reading:
        alone = not any(hasattr(module, "classifier") for module in closure_modules(run))
        return Reading(work_clock(run).ms * (2.0 if alone else 1.0))

    structure = discover(bert)
    with caplog.at_level(logging.WARNING):
        table = measure_table(bert, structure, SMALL, timer=slow_alone, **ONCE)
    exact = measure_table(bert, structure, SMALL, timer=work_clock, **ONCE)
    assert "scaled by 0.50" in caplog.text
    counts = random_counts(structure, table, random.Random(5))
    assert table(counts) == pytest.approx(exact(counts))


def test_meaningless_readings_give_a_usable_table_and_a_warning(bert, caplog: pytest.LogCaptureFixture) -> None:
    structure = discover(bert)

    def same_for_all(run) -> Reading:
        run()
        return Reading(3.0)

    with caplog.at_level(logging.WARNING):
        table = measure_table(bert, structure, SMALL, timer=same_for_all, **ONCE)
    assert "hardly slower than with everything removed" in caplog.text
    assert 0 < table.overhead_ms < table.dense_ms
    assert table(structure.sizes) == pytest.approx(table.dense_ms, rel=0.01)
    assert all(ms > 0 for curve in table.curves.values() for ms in curve.ms[1:])
