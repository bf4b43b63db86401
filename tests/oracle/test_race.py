"""The race between allocations, with known divergences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from secateurs.oneshot import race as module
from secateurs.oneshot.race import Race

RUNS: list[tuple[str, int]] = []


class Known:
    """The divergence of an allocation is its mean plus noise of its own; the first column of a text is its number."""

    def __init__(self, truth: dict[str, Tensor], batches: list[dict[str, Tensor]]) -> None:
        self.truth = truth
        self.texts = torch.cat([batch["input_ids"][:, 0] for batch in batches])

    def __call__(self, allocation: Any) -> Tensor:
        name = allocation["name"]
        RUNS.append((name, len(self.texts)))
        return self.truth[name][self.texts]


class Candidates:
    def prepare(self, proposals: Any) -> None:
        pass


def race_of(truth: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, rows: int = 16) -> Race:
    RUNS.clear()
    monkeypatch.setattr(module, "DivergenceObjective", lambda candidates, context, lap, memory_bytes: Known(truth, lap))
    texts = torch.arange(len(next(iter(truth.values()))))
    batches = [{"input_ids": part[:, None]} for part in texts.split(rows)]
    candidates: Any = Candidates()
    context: Any = None
    return Race(candidates, context, batches)


def noisy(mean: float, spread: float, seed: int, texts: int = 192) -> Tensor:
    return mean + spread * torch.randn(texts, generator=torch.Generator().manual_seed(seed))


def proposals(truth: dict[str, Tensor]) -> list[Any]:
    return [{"name": name} for name in truth]


def test_what_is_clearly_behind_runs_one_lap(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {"bad": noisy(2.0, 0.1, 0), "good": noisy(1.0, 0.1, 1), "worse": noisy(3.0, 0.1, 2)}
    race = race_of(truth, monkeypatch)
    assert [len(lap.texts) for lap in race.laps] == [24, 36, 132]  # of batches of 16 rows in six parts
    best, divergence = race(proposals(truth))
    assert best == {"name": "good"}
    assert {name for name, texts in RUNS if texts == 24} == set(truth)
    assert all(texts == 24 for _, texts in RUNS), "the winner alone was left after a lap"
    assert divergence == pytest.approx(float(truth["good"][race.laps[0].texts].mean()))


def test_the_last_lap_decides_between_two_that_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = torch.arange(192)
    close = noisy(1.0, 0.3, 0)
    truth = {
        "one": close,
        "other": close + 0.05 * torch.where(texts % 2 == 0, 1.0, -1.0) - 0.01,
        "third": close + 0.002,
    }
    race = race_of(truth, monkeypatch)
    best, divergence = race(proposals(truth))
    every = sorted(truth, key=lambda name: float(truth[name].mean()))
    assert best == {"name": every[0]} == {"name": "other"}
    assert sum(texts == 132 for name, texts in set(RUNS)) == 2
    assert divergence == pytest.approx(float(truth["other"].mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "rows", "laps"), [(80, 16, [16, 16, 48]), (32, 16, [16, 16]), (16, 16, [16]), (1, 1, [1])]
)
def test_few_texts_are_not_divided(texts: int, rows: int, laps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {str(index): noisy(float(5 - index), 0.0, index, texts) for index in range(5)}
    race = race_of(truth, monkeypatch, rows)
    assert [len(lap.texts) for lap in race.laps] == laps
    assert race(proposals(truth)) == ({"name": "4"}, 1.0)


def test_the_lead_is_a_ratio_on_the_first_two_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {"one": noisy(1.0, 0.0, 0), "two": noisy(2.0, 0.0, 0)}
    race = race_of(truth, monkeypatch)
    assert race.lead({"name": "one"}, {"name": "two"}) == pytest.approx(2.0)
    assert {texts for _, texts in RUNS} == {24, 36}
