"""Removals: responses that agree with them, and a search that is not led astray by prices of first order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch

from secateurs.errors import TargetUnreachable
from secateurs.oneshot.batch_rows import divided
from secateurs.oneshot.gradient_search import even_allocation, gradient_search
from secateurs.oneshot.level_options import LevelOptions
from secateurs.oneshot.removals import scaled


def price(responses: torch.Tensor) -> torch.Tensor:
    return responses.square().mean(0) / 2


def test_the_price_of_a_removal_becomes_the_measured_one_and_small_changes_keep_theirs() -> None:
    sizes = torch.tensor([1.0, 0.5, 0.03, 0.0], dtype=torch.float64)
    first_order = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sizes
    before = price(first_order)
    after = price(scaled(first_order, 0, 100 * float(before[0])))
    assert after[0] == pytest.approx(100 * float(before[0]))
    # (1 + 9 * 0.25)^2 at half of the response; 1.6 % at a thirtieth of it
    assert after[1] == pytest.approx(10.5625 * float(before[1]))
    assert float(before[2]) < after[2] < 1.02 * float(before[2])
    assert after[3] == 0


@pytest.mark.parametrize("measured", [0.0, 1e-9])
def test_a_cheap_removal_lowers_no_price(measured: float) -> None:
    first_order = torch.tensor([[1.0, 0.2, 0.0], [-0.5, 0.1, 0.0]])
    assert torch.allclose(price(scaled(first_order, 0, measured)), price(first_order.double()))


def test_a_removal_without_a_response_stays_finite() -> None:
    assert torch.equal(scaled(torch.zeros(4, 3), 0, 1.0), torch.zeros(4, 3).double())


def options_of(*kept: int) -> LevelOptions:
    return LevelOptions(kept, tuple(float(one) for one in kept), tuple(0.0 for _ in kept))


def test_the_even_allocation_keeps_the_same_share_of_every_group() -> None:
    options = {"a": options_of(*range(13)), "b": options_of(*range(0, 49, 4)), "c": options_of(2, 6, 8)}
    assert even_allocation(options, 68.0) == {"a": 12, "b": 48, "c": 8}
    assert even_allocation(options, 34.0) == {"a": 6, "b": 24, "c": 2}
    assert even_allocation(options, 2.0) == {"a": 0, "b": 0, "c": 2}
    with pytest.raises(TargetUnreachable):
        even_allocation(options, 1.0)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_batch_is_divided_into_parts_of_almost_the_same_size(rows: int) -> None:
    batch = {"input_ids": torch.arange(rows)[:, None], "scale": torch.ones(9)}
    parts = divided(batch, 3)
    sizes = [len(part["input_ids"]) for part in parts]
    assert len(parts) == min(rows, 3) and max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), batch["input_ids"])
    assert all(torch.equal(part["scale"], batch["scale"]) for part in parts)


class RaceByTruth:
    """Compares allocations by a known divergence, and notes them."""

    def __init__(self, truth: Any) -> None:
        self.truth, self.seen, self.measured = truth, [], set[str]()

    def lead(self, one: Any, other: Any) -> float:
        self.seen.append(one)
        return self.truth(other) / self.truth(one)

    def __call__(self, proposals: Any) -> tuple[Any, float]:
        self.seen += list(proposals)
        best = min(proposals, key=self.truth)
        return best, self.truth(best)


def search(removals: dict[str, float], truth: Any, limit: float = 16.0) -> tuple[Any, RaceByTruth]:
    generator = torch.Generator().manual_seed(1)
    kept = (0, 2, 4, 6, 8)
    options = {name: options_of(*kept) for name in "abcd"}
    # "d" looks nearly free at every level; the others cost what they remove
    responses = {
        name: torch.randn(64, 1, generator=generator) * (1 - torch.tensor(kept) / 8) * (0.1 if name == "d" else 1.0)
        for name in options
    }
    race: Any = RaceByTruth(truth)

    def measure(names: Collection[str]) -> dict[str, float]:
        race.measured.update(names)
        return {name: removals.get(name, 0.0) for name in names}

    return gradient_search(responses, measure, options, limit, race, seed=0), race


def test_a_removal_that_only_looks_cheap_is_not_proposed_by_measured_prices() -> None:
    """The attention of the last layer of a classifier: priced 0.014, measured 2.0; every proposal removed it."""

    def truth(allocation: Any) -> float:
        return 10.0 * (allocation["d"] == 0) + sum((1 - allocation[name] / 8) ** 2 for name in "abc")

    _, race = search({}, truth)
    assert all(one["d"] == 0 for one in race.seen if one != dict.fromkeys("abcd", 4))
    found, race = search({"d": 10.0}, truth)
    assert any(one["d"] > 0 and one != dict.fromkeys("abcd", 4) for one in race.seen)
    assert truth(found.allocation) < 10


def test_only_removals_that_a_proposal_comes_near_are_measured() -> None:
    _, race = search({"d": 0.001}, lambda _: 1.0, limit=24.0)  # "d" goes as a whole, and nothing else needs to
    assert race.measured == {"d"}
    _, race = search({}, lambda _: 1.0, limit=4.0)
    assert race.measured == set("abcd")


@pytest.mark.parametrize(("lead", "taken"), [(1.4, False), (1.6, True)])
def test_the_even_allocation_is_taken_where_all_proposals_are_far_worse(lead: float, taken: bool) -> None:
    """It gains less by the last fit than a proposal, so a small lead does not count."""
    even = dict.fromkeys("abcd", 4)
    found, race = search({}, lambda allocation: 1.0 if allocation == even else lead)
    assert even in race.seen
    assert (found.allocation == even) is taken
