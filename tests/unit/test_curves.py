"""Which curves there are, where they are measured, and what the readings make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.curves import fit_curve, free_multiple, measured_units, plan_curves
from secateurs.errors import RecipeError
from secateurs.factorize import factorize, matrices, rank_groups
from secateurs.families import discover
from secateurs.latency_curve import LatencyCurve
from secateurs.mask import Mask
from secateurs.shrink import shrink
from secateurs.structure import Cut, Group, Kind, Structure
from tiny_models import tiny_model


@given(st.sampled_from(list(Kind)), st.integers(1, 20000), st.sampled_from([1, 8, 64]))
@settings(deadline=None)
def test_measured_units_ascend_to_full_size_and_are_few(kind: Kind, size: int, multiple: int) -> None:
    units = measured_units(kind, size, multiple)
    assert list(units) == sorted(set(units))
    assert (units[0], units[-1]) == (1, size)
    assert len(units) <= 16
    if kind is not Kind.HEAD:
        assert all(unit % multiple == 0 for unit in units[1:-1])


def test_chosen_points_replace_the_rule() -> None:
    assert measured_units(Kind.HEAD, 6, 1, chosen=(0, 3, 9)) == (3, 6)
    assert measured_units(Kind.HEAD, 32, 1) == (1, 2, 4, 8, 16, 24, 32)


def test_violators_are_pooled_to_their_mean() -> None:
    curve = fit_curve((1, 2, 4, 8, 16), (1.0, 3.0, 2.0, 7.0, 5.0), (0.1,) * 5, multiple=8, floor=0.01)
    assert curve.units == (0, 1, 2, 4, 8, 16)
    assert curve.ms == pytest.approx((0, 1, 2.5, 2.5, 6, 6))
    assert curve.raw_ms == (0, 1, 3, 2, 7, 5)
    assert curve.multiple == 8
    assert curve(6) == pytest.approx(2.5 + (6 - 2.5) / 2)


@given(st.lists(st.floats(-5, 100), min_size=1, max_size=9))
@settings(deadline=None)
def test_curves_never_fall_and_always_cost_something(readings: list[float]) -> None:
    units = range(1, len(readings) + 1)
    curve = fit_curve(tuple(units), readings, [0.0] * len(readings), multiple=1, floor=0.5)
    assert all(np.diff(curve.ms) >= 0)
    assert min(curve.ms[1:]) >= 0.5
    assert curve(0) == 0


@pytest.mark.parametrize("true_multiple", [1, 2, 8, 32, 128])
def test_free_multiple_is_the_least_that_costs_no_extra(true_multiple: int) -> None:
    widths = [512, *(512 + part for part in (1, 2, 4, 8, 16, 32, 64)), 640]
    times = {width: 0.01 * width * (1.0 if width % true_multiple == 0 else 1.1) for width in widths}
    assert free_multiple(times) == true_multiple


def test_layers_of_one_geometry_share_a_curve() -> None:
    model = tiny_model("bert")
    structure = discover(model)
    curves, groups = plan_curves(model, structure, {}, 8, False)
    assert set(curves) == {"head", "intermediate"}
    assert groups == {group.name: str(group.kind) for group in structure}
    assert curves["head"].units == (1, 2, 3, 4)
    assert curves["intermediate"].units == (1, 8, 16, 20)
    assert (curves["head"].multiple, curves["intermediate"].multiple) == (1, 8)


def test_layers_that_attend_differently_do_not_share() -> None:
    model = tiny_model("qwen3")  # sliding, full, sliding
    _, groups = plan_curves(model, discover(model), {}, 8, False)
    heads = [groups[f"layer.{index}.heads"] for index in range(3)]
    assert heads[0] == heads[2] != heads[1]
    assert len({groups[f"layer.{index}.intermediate"] for index in range(3)}) == 1


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "distilbert"])
def test_uneven_sizes_share_the_curve_of_the_largest(family: str) -> None:
    model = tiny_model(family)
    dense = discover(model)
    counts = {"layer.0.heads": 1, "layer.1.heads": 0, "layer.2.heads": 2, "layer.1.intermediate": 9}
    shrink(model, dense, Mask.from_units(dense, {name: torch.arange(kept) for name, kept in counts.items()}))
    structure = discover(model)
    curves, groups = plan_curves(model, structure, {}, 8, False)
    assert set(curves) == {"head", "intermediate"}
    assert set(groups) == {group.name for group in dense} - {"layer.1.heads"}
    assert curves["head"].group.name == "layer.2.heads"
    assert curves["head"].units == (1, 2)


def test_probing_plans_unaligned_widths_only_where_they_fit() -> None:
    model = tiny_model("bert", intermediate_size=512)
    curves, _ = plan_curves(model, discover(model), {}, 8, True)
    assert curves["intermediate"].probe == (256, 257, 258, 260, 264, 272, 288, 320, 384)
    assert curves["head"].probe == ()
    narrow = tiny_model("bert")
    assert plan_curves(narrow, discover(narrow), {}, 8, True)[0]["intermediate"].probe == ()


def test_the_residual_stream_has_no_curve() -> None:
    cut = Cut("lm_head.weight", 1)
    group = Group("hidden", Kind.HIDDEN, 32, (cut,), "lm_head", "lm_head", "", "")
    with pytest.raises(RecipeError, match=r"hidden .* use a sparsity target"):
        plan_curves(tiny_model("gpt2"), Structure((group,)), {}, 8, False)


def factored(which: str = "all") -> tuple[Any, Structure]:
    model = tiny_model("bert")
    factorize(model, matrices(model, which))
    return model, rank_groups(model, which)


def test_ranks_share_a_curve_where_the_matrices_are_alike() -> None:
    """Query, key, value and output are 32 x 32; up is 20 x 32, down 32 x 20."""
    model, structure = factored()
    curves, names = plan_curves(model, structure, {}, 8, probe=False)
    shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in curves}
    for group, name in names.items():
        shapes[name].add(tuple(model.get_submodule(structure[group].product).weight.shape))
    assert sorted(shapes.values(), key=str) == [{(20, 32)}, {(32, 20)}, {(32, 32)}]
    square = next(curve for name, curve in curves.items() if shapes[name] == {(32, 32)})
    assert (square.pair, square.units) == (16, (1, 8, 16, 32))
    narrow = next(curve for name, curve in curves.items() if shapes[name] == {(32, 20)})
    assert (narrow.pair, narrow.units[-2:]) == (12, (12, 20))


def test_points_of_ranks_lie_where_there_are_two_factors() -> None:
    assert measured_units(Kind.RANK, 384, 8, pair=192) == (1, 8, 16, 24, 48, 96, 144, 192, 384)
    assert measured_units(Kind.RANK, 24, 8) == (1, 8, 16, 24), "a pair that is small already"


def test_a_curve_of_ranks_ends_in_the_matrix() -> None:
    """Two factors that are slower than the matrix count as much as it, and the matrix as it was measured."""
    curve = fit_curve((1, 8, 16, 32), (1.0, 3.0, 7.0, 5.0), (0.0,) * 4, multiple=8, floor=0.1, pair=16)
    assert [curve(rank) for rank in (0, 1, 8, 16, 17, 32)] == [0, 1, 3, 5, 5, 5]
    assert curve.apart(16) == 5 and curve.apart(8) == 3
    assert curve.apart(32) == pytest.approx(5 + 16 * (5 - 1) / 15)
    rank = torch.tensor(24.0, requires_grad=True)
    curve.apart(rank).backward()
    assert rank.grad is not None and rank.grad > 0
    assert LatencyCurve.from_dict(curve.to_dict()) == curve
