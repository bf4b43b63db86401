"""Interleaved timing with fake timers: rounds, repeats, and the statistics of the readings."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from secateurs.latency.environment import Environment
from secateurs.latency.interleave import Samples, interleave
from secateurs.latency.timer import Reading, threads

CPU = Environment(threads=1)


def counting_runs(names: str) -> tuple[dict, list[str]]:
    ran: list[str] = []
    return {name: (lambda name=name: ran.append(name)) for name in names}, ran


def instant(run) -> Reading:
    run()
    return Reading(1.0)


def test_every_round_times_every_candidate_once_in_changing_order() -> None:
    runs, ran = counting_runs("abcde")
    samples = interleave(runs, CPU, seed=3, seconds=0, rounds=(20, 20), timer=instant)
    visits = ran[5:]  # the first five runs are the warm-up
    assert visits[::2] == visits[1::2]  # an untimed run, then the timed one
    orders = ["".join(visits[start : start + 10 : 2]) for start in range(0, 200, 10)]
    assert {"".join(sorted(order)) for order in orders} == {"abcde"}
    assert len(set(orders)) > 10
    assert {len(readings) for readings in samples.ms.values()} == {20}
    again, ran_again = counting_runs("abcde")
    interleave(again, CPU, seed=3, seconds=0, rounds=(20, 20), timer=instant)
    assert ran_again == ran


def test_only_repeats_are_timed() -> None:
    runs, ran = counting_runs("ab")
    timed: list[str] = []

    def watch(run) -> Reading:
        before = len(ran)
        run()
        timed.extend(ran[before:])
        return Reading(1.0)

    samples = interleave(runs, CPU, seed=0, seconds=0, rounds=(2, 2), repeats={"b": 3}, timer=watch)
    assert (timed.count("a"), timed.count("b")) == (2, 6)
    assert (len(samples.ms["a"]), len(samples.contention["b"])) == (2, 6)
    assert (ran.count("a"), ran.count("b")) == (2 + 3, 6 + 3)


def test_the_preceding_run_comes_before_every_reading_and_is_not_timed() -> None:
    runs, ran = counting_runs("ab")
    timed: list[str] = []

    def watch(run) -> Reading:
        before = len(ran)
        run()
        timed.extend(ran[before:])
        return Reading(1.0)

    preceded_by = {"b": lambda: ran.append("layer")}
    samples = interleave(
        runs, CPU, seed=0, seconds=0, rounds=(2, 2), repeats={"b": 3}, preceded_by=preceded_by, timer=watch
    )
    assert sorted(timed) == ["a"] * 2 + ["b"] * 6
    assert len(samples.ms["b"]) == 6
    assert [ran[at - 1] for at, name in enumerate(ran) if name == "b"][1:] == ["layer"] * 6  # without the warm-up run
    assert ran.count("a") == 1 + 2 * 2  # a candidate without a preceding run gets an untimed run per visit


def test_the_time_limit_does_not_reduce_the_minimum_number_of_rounds() -> None:
    runs, _ = counting_runs("ab")
    samples = interleave(runs, CPU, seed=0, seconds=0, rounds=(4, 100), timer=instant)
    assert len(samples.ms["a"]) == 4


def test_the_condition_enough_ends_the_timing() -> None:
    runs, _ = counting_runs("ab")
    samples = interleave(
        runs, CPU, seed=0, seconds=1e9, rounds=(2, 100), timer=instant, enough=lambda seen: len(seen.ms["a"]) >= 7
    )
    assert len(samples.ms["b"]) == 7


def test_the_standard_error_of_a_median_matches_the_scatter_of_many_medians() -> None:
    drawn = np.random.default_rng(0).normal(10, 2, size=(2000, 101))
    errors = [Samples({"a": list(row)}).error("a", 101) for row in drawn]
    assert np.mean(errors) == pytest.approx(np.median(drawn, axis=1).std() / 10, rel=0.1)


def test_rounds_are_tracked() -> None:
    runs, _ = counting_runs("a")
    titles = []
    interleave(
        runs,
        CPU,
        seed=0,
        seconds=0,
        rounds=(1, 1),
        timer=instant,
        track=lambda items, title: titles.append(title) or items,
        label="latency",
    )
    assert titles == ["latency"]


def test_threads_and_garbage_collection_are_set_and_restored() -> None:
    before = torch.get_num_threads()
    seen = []

    def run() -> None:
        seen.append((torch.get_num_threads(), gc.isenabled()))

    interleave({"a": run}, Environment(threads=3), seed=0, seconds=0, rounds=(1, 1), timer=instant)
    assert set(seen) == {(3, False)}
    assert (torch.get_num_threads(), gc.isenabled()) == (before, True)
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_spread_and_noise() -> None:
    quiet = [1.0] * 4
    samples = Samples({"a": [9.0, 10.0, 10.0, 10.0, 11.0], "b": quiet}, {"a": [1.0] * 5, "b": [1.0, 1.5, 1.5, 1.5]})
    assert samples.median("a") == 10
    assert samples.spread("a") == 0
    assert samples.noise("a") == 0
    assert samples.noise("b") == pytest.approx(0.5)
    assert Samples({"a": [8.0, 9.0, 10.0, 11.0, 12.0]}).noise("a") == pytest.approx(0.1)


def test_the_ratio_is_taken_before_the_median() -> None:
    drift = [1.0, 3.0, 50.0, 2.0, 7.0]
    samples = Samples({"dense": [2 * value for value in drift], "pruned": drift})
    assert samples.ratio("dense", "pruned") == (2.0, 2.0, 2.0)


def test_the_interval_covers_the_true_ratio_and_narrows_with_more_rounds() -> None:
    generator = np.random.default_rng(0)
    covered, widths = 0, {16: [], 256: []}
    for _ in range(100):
        for rounds in widths:
            speed = 1.5 * np.exp(generator.normal(0, 0.1, rounds))
            _, low, high = Samples({"dense": list(speed), "pruned": [1.0] * rounds}).ratio("dense", "pruned")
            widths[rounds].append(high - low)
            covered += low <= 1.5 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert np.median(widths[256]) == pytest.approx(np.median(widths[16]) / 4, rel=0.3)
