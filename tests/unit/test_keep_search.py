"""The search for the speed-up that keeps a quality: its grid, its bisection, and what the report says of it."""

from __future__ import annotations

import pytest

from secateurs.pipeline.keep_search import STEP, bisect, chosen_try, grid, tries_of
from secateurs.report.kept_quality import KeptQuality, KeptTry
from secateurs.structure.target import Keep


@pytest.mark.parametrize("largest", [1.01, 1.06, 2.0, 11.3])
def test_the_grid_ends_below_the_largest_speedup(largest: float) -> None:
    speedups = grid(largest)
    assert all(1 < value < largest for value in speedups)
    assert (speedups[-1] if speedups else 1) * STEP >= largest


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_bisection_finds_the_last_that_passes_in_as_few_tries_as_promised(count: int) -> None:
    values = [float(number) for number in range(1, count + 1)]
    for last in range(count + 1):
        tried: list[float] = []

        def passes(value: float, last: int = last, tried: list[float] = tried) -> bool:
            tried.append(value)
            return value <= last

        assert bisect(values, passes) == (last if last else None)
        assert len(tried) <= tries_of(count)


TRIES = [KeptTry(1.5, 0.999, 0.995, 4000, "accuracy"), KeptTry(2.0, 0.996, 0.991, 4000, "accuracy"),
         KeptTry(3.0, 0.98, 0.97, 4000, "accuracy")]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [(0.992, 1.0, True, "confirms"), (0.97, 1.0, None, "needs more texts"), (0.97, 0.985, False, "is missed")],
)
def test_the_verdict_is_that_of_the_whole_interval(low: float, high: float, verdict: bool | None, words: str) -> None:
    kept = KeptQuality("accuracy", (low + high) / 2, low, high, 872, TRIES[1], TRIES)
    assert kept.keeps(0.99) is verdict
    sentence = kept.sentence(0.99)
    assert words in sentence
    assert (
        "2.00x by the latency table was chosen, where 4000 texts kept 99.6 % of the accuracy, at least 99.1 %"
        in sentence
    )


def test_the_chosen_try_is_where_the_bisection_ended() -> None:
    """A faster try of another share may pass by chance; it was not the answer."""
    speedups = grid(1.5)
    assert len(speedups) == 8
    lows = [0.995, 0.994, 0.993, 0.992, 0.97, 0.996, 0.95, 0.9]
    tries = [KeptTry(speedup, low + 0.003, low, 4000, "accuracy") for speedup, low in zip(speedups, lows, strict=True)]
    assert chosen_try(tries, 1.5, Keep(0.99)) == tries[3]
    assert chosen_try(tries[::-1], 1.5, Keep(0.96)) == tries[5]
