"""The order in which the search takes its texts."""

from __future__ import annotations

import torch

from secateurs.methods.ziplm.search import longer_first


def batches(*lengths: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.zeros(2, length, dtype=torch.long)} for length in lengths]


def test_batches_are_drawn_in_proportion_to_their_length() -> None:
    given = batches(10, 30, 60)
    orders = [longer_first(given, seed) for seed in range(2000)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    first = [sum(order[0] == index for order in orders) / len(orders) for index in range(3)]
    for share, wanted in zip(first, (0.1, 0.3, 0.6), strict=True):
        assert abs(share - wanted) < 0.04  # more than three standard errors


def test_the_seed_determines_the_order() -> None:
    given = batches(*range(1, 40))
    assert longer_first(given, 3) == longer_first(given, 3) != longer_first(given, 4)
