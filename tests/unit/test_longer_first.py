"""Texts of a search: longer ones are preferred."""

from __future__ import annotations

from typing import Any

from secateurs.tasks.data.draw_roles import longer


def rows(*lengths: int) -> list[dict[str, Any]]:
    return [{"input_ids": [index] * length} for index, length in enumerate(lengths)]


def test_texts_are_drawn_in_proportion_to_their_length() -> None:
    drawn = [longer(rows(10, 30, 60), 1, seed)[0]["input_ids"][0] for seed in range(2000)]
    shares = [drawn.count(index) / len(drawn) for index in range(3)]
    for share, wanted in zip(shares, (0.1, 0.3, 0.6), strict=True):
        assert abs(share - wanted) < 0.04  # more than three standard errors


def test_the_seed_determines_the_draw() -> None:
    given = rows(*range(1, 40))
    assert longer(given, 20, 3) == longer(given, 20, 3) != longer(given, 20, 4)
    assert longer(given, 39, 3) == given
