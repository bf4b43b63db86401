"""Models timed against each other, with a timer that counts work."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from secateurs.errors import RecipeError
from secateurs.latency.compare import Measurement, Speed, compare
from secateurs.latency.environment import Environment
from secateurs.latency.timer import Reading
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from tiny_models import tiny_model
from work_clock import work_clock

SMALL = Environment(batch_size=4, sequence_length=6)


@pytest.fixture(scope="module")
def models() -> dict:
    dense, pruned = tiny_model("gpt2"), tiny_model("gpt2")
    structure = discover(pruned)
    shrink(pruned, structure, Mask.from_units(structure, {name: torch.arange(1) for name in structure.sizes}))
    return {"dense": dense, "pruned": pruned}


def test_speedup_and_throughput(models: dict) -> None:
    result = compare(models, SMALL, timer=work_clock, seconds=0, rounds=(2, 2))
    dense, pruned = result.timings["dense"], result.timings["pruned"]
    assert result.speedups["dense"] == Speed(1.0, 1.0, 1.0)
    assert result.speedups["pruned"].median == pytest.approx(dense.latency_ms / pruned.latency_ms)
    assert result.speedups["pruned"].median > 1.5
    assert dense.latency_low == dense.latency_ms == dense.latency_high
    assert dense.throughput_per_second == pytest.approx(4 * 1000 / dense.latency_ms)
    assert (dense.rounds, dense.noise) == (2, 0)


def test_models_with_different_vocabularies_get_tokens_of_the_smaller_one(models: dict) -> None:
    small = tiny_model("gpt2", vocab_size=models["dense"].config.vocab_size // 2)
    result = compare({"dense": models["dense"], "small": small}, SMALL, timer=work_clock, seconds=0, rounds=(1, 1))
    assert set(result.timings) == {"dense", "small"}


def test_drift_does_not_change_the_speedup(models: dict) -> None:
    drift = iter(np.repeat([1.0, 4.0, 2.0, 9.0, 1.5, 3.0, 8.0, 5.0], 2))
    result = compare(
        models, SMALL, timer=lambda run: Reading(work_clock(run).ms * next(drift)), seconds=0, rounds=(8, 8)
    )
    exact = compare(models, SMALL, timer=work_clock, seconds=0, rounds=(1, 1)).speedups["pruned"]
    speed = result.speedups["pruned"]
    assert (speed.low, speed.median, speed.high) == pytest.approx((exact.median,) * 3)
    assert result.timings["dense"].noise > 0.3


def test_rounds_continue_until_the_speedup_is_precise(models: dict) -> None:
    generator = np.random.default_rng(0)

    work: dict = {}

    def shaky(run) -> Reading:
        if run not in work:
            work[run] = work_clock(run).ms
        return Reading(work[run] * float(np.exp(generator.normal(0, 0.03))))

    rough = compare(models, SMALL, timer=shaky, seconds=1e9, rounds=(8, 500), precision=0.05)
    fine = compare(models, SMALL, timer=shaky, seconds=1e9, rounds=(8, 500), precision=0.01)
    speed = fine.speedups["pruned"]
    assert (speed.high - speed.low) / 2 <= 0.01 * speed.median
    assert rough.timings["dense"].rounds < fine.timings["dense"].rounds < 500


def test_baseline_can_be_any_model_and_must_exist(models: dict) -> None:
    result = compare(models, SMALL, baseline="pruned", timer=work_clock, seconds=0, rounds=(1, 1))
    assert result.speedups["dense"].median < 1
    with pytest.raises(RecipeError, match="no model 'teacher' to compare with; given: dense, pruned"):
        compare(models, SMALL, baseline="teacher")
    with pytest.raises(RecipeError, match="65 tokens is too long"):
        compare(models, Environment(sequence_length=65))


def test_measurement_is_json(models: dict) -> None:
    result = compare(models, SMALL, timer=work_clock, seconds=0, rounds=(1, 1))
    values = json.loads(json.dumps(result.to_dict()))
    assert Measurement.from_dict(values) == result
    assert values["environment"] == SMALL.to_dict()
    assert values["baseline"] == "dense"
    assert values["machine"]["torch"] == torch.__version__
    assert values["timings"]["pruned"]["latency_ms"] == result.timings["pruned"].latency_ms
    assert set(values["timings"]["dense"]) == {
        "latency_ms", "latency_low", "latency_high", "throughput_per_second", "rounds", "noise",
    }  # fmt: skip
    assert set(values["speedups"]["pruned"]) == {"median", "low", "high", "processes"}


def test_noise_is_flagged(models: dict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compare(models, SMALL, timer=lambda run: Reading(work_clock(run).ms, 1.5), seconds=0, rounds=(1, 1))
    assert "noisy: 50 %" in caplog.text
    assert "--clock cpu --threads 1" in caplog.text
