"""Levels and even shares of a model that was pruned before follow the sizes of its dense model."""

from __future__ import annotations

import torch

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.oneshot.level_options import level_options
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.structure import Group, Structure
from secateurs.structure.target import Budget

WIDTH, NOW = 3072, 2239
"""Neurons of BERT-base, and what three levels of a tenth leave of them."""

PAPER = (2239, 2016, 1814, 1633, 1469, 1322, 1190, 1071, 964, 868, 781)
"""Levels of the paper from there on."""


def group(name: str, size: int, kind: Kind = Kind.INTERMEDIATE) -> Group:
    return Group(name, kind, size, (Cut(f"{name}.weight", 1),), name, name, "layer", "norm")


def table(multiple: int = 1) -> LatencyTable:
    curve = LatencyCurve((0, 1, WIDTH), (0.0, 0.1, 1.0), multiple=multiple)
    return LatencyTable(Environment(), 3.0, 1.0, {"all": curve}, dict.fromkeys(("a", "b"), "all"))


def kept(structure: Structure, multiple: int = 1, dense_sizes: dict[str, int] | None = None) -> tuple[int, ...]:
    errors = {own.name: torch.zeros(own.size + 1) for own in structure}
    return level_options(structure, table(multiple), errors, 0.9, True, dense_sizes or {})["a"].kept


def test_the_widths_are_those_of_the_dense_model_that_are_left() -> None:
    structure = Structure((group("a", NOW),))
    found = kept(structure, dense_sizes={"a": WIDTH, "gone": 12})
    assert found[::-1][: len(PAPER)] == PAPER
    assert found == tuple(count for count in kept(Structure((group("a", WIDTH),))) if count <= NOW)
    assert 2015 in kept(structure), "the levels of the smaller model are others"


def test_rounded_widths_are_too() -> None:
    dense = kept(Structure((group("a", WIDTH),)), 64)
    now = dense[-4]
    again = kept(Structure((group("a", now),)), 64, {"a": WIDTH})
    assert again == dense[:-3]
    odd = kept(Structure((group("a", now - 1),)), 64, {"a": WIDTH})
    assert odd == (*dense[:-4], now - 1), "what a model has can always be kept"


def test_heads_can_be_kept_one_by_one() -> None:
    structure = Structure((group("a", 7, Kind.HEAD),))
    assert kept(structure, dense_sizes={"a": 12}) == tuple(range(8))


def test_an_even_share_is_one_of_the_dense_model() -> None:
    """A group that was cut more than another one before keeps its share of the dense model, not of what it has."""
    structure = Structure((group("a", WIDTH), group("b", WIDTH // 2)))
    cost = table()
    budget = Budget(float(cost({"a": WIDTH // 2, "b": WIDTH // 2})), cost)
    found = even_counts(structure, budget, dense_sizes={"a": WIDTH, "b": WIDTH, "gone": 9})
    assert found == {"a": WIDTH // 2, "b": WIDTH // 2}
    assert even_counts(structure, budget)["b"] < WIDTH // 2
