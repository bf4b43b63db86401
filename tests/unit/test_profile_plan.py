"""Plan of a latency profile: which groups share a curve, and at which kept counts a curve is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.errors import RecipeError
from secateurs.latency.profile_plan import measured_units, plan_profile
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Group, Structure
from secateurs.surgery.factorize import factorize, matrices, rank_groups
from secateurs.surgery.shrink import shrink
from tiny_models import tiny_model


@given(st.sampled_from(list(Kind)), st.integers(1, 20000), st.sampled_from([1, 8, 64]))
@settings(deadline=None)
def test_measured_units_ascend_to_full_size_and_are_at_most_16(kind: Kind, size: int, multiple: int) -> None:
    units = measured_units(kind, size, multiple)
    assert list(units) == sorted(set(units))
    assert (units[0], units[-1]) == (1, size)
    assert len(units) <= 16
    if kind is not Kind.HEAD:
        assert all(unit % multiple == 0 for unit in units[1:-1])


def test_chosen_points_replace_the_rule() -> None:
    assert measured_units(Kind.HEAD, 6, 1, chosen=(0, 3, 9)) == (3, 6)
    assert measured_units(Kind.HEAD, 32, 1) == (1, 2, 4, 8, 16, 24, 32)


def test_layers_of_the_same_geometry_share_a_curve() -> None:
    model = tiny_model("bert")
    structure = discover(model)
    plan = plan_profile(model, structure, {}, 8, False)
    assert set(plan.curves) == {"head", "intermediate"}
    assert plan.groups == {group.name: str(group.kind) for group in structure}
    assert plan.curves["head"].units == (1, 2, 3, 4)
    assert plan.curves["intermediate"].units == (1, 8, 16, 20)
    assert (plan.curves["head"].multiple, plan.curves["intermediate"].multiple) == (1, 8)


def test_layers_with_different_attention_do_not_share_a_curve() -> None:
    model = tiny_model("qwen3")  # attention of the layers: sliding, full, sliding
    groups = plan_profile(model, discover(model), {}, 8, False).groups
    heads = [groups[f"layer.{index}.heads"] for index in range(3)]
    assert heads[0] == heads[2] != heads[1]
    assert len({groups[f"layer.{index}.intermediate"] for index in range(3)}) == 1


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "distilbert"])
def test_groups_of_different_sizes_share_the_curve_of_the_largest(family: str) -> None:
    model = tiny_model(family)
    dense = discover(model)
    counts = {"layer.0.heads": 1, "layer.1.heads": 0, "layer.2.heads": 2, "layer.1.intermediate": 9}
    shrink(model, dense, Mask.from_units(dense, {name: torch.arange(kept) for name, kept in counts.items()}))
    structure = discover(model)
    plan = plan_profile(model, structure, {}, 8, False)
    assert set(plan.curves) == {"head", "intermediate"}
    assert set(plan.groups) == {group.name for group in dense} - {"layer.1.heads"}
    assert plan.curves["head"].group.name == "layer.2.heads"
    assert plan.curves["head"].units == (1, 2)


def test_probing_plans_unaligned_widths_only_where_they_fit() -> None:
    model = tiny_model("bert", intermediate_size=512)
    curves = plan_profile(model, discover(model), {}, 8, True).curves
    assert curves["intermediate"].probe == (256, 257, 258, 260, 264, 272, 288, 320, 384)
    assert curves["head"].probe == ()
    narrow = tiny_model("bert")
    assert plan_profile(narrow, discover(narrow), {}, 8, True).curves["intermediate"].probe == ()


def test_the_residual_stream_has_no_curve() -> None:
    cut = Cut("lm_head.weight", 1)
    group = Group("hidden", Kind.HIDDEN, 32, (cut,), "lm_head", "lm_head", "", "")
    with pytest.raises(RecipeError, match=r"hidden .* use a sparsity target"):
        plan_profile(tiny_model("gpt2"), Structure((group,)), {}, 8, False)


def factored(which: str = "all") -> tuple[Any, Structure]:
    model = tiny_model("bert")
    factorize(model, matrices(model, which))
    return model, rank_groups(model, which)


def test_rank_groups_share_a_curve_if_their_matrices_have_one_shape() -> None:
    """Query, key, value and output are 32 x 32; up is 20 x 32, down 32 x 20."""
    model, structure = factored()
    plan = plan_profile(model, structure, {}, 8, probe=False)
    shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in plan.curves}
    for group, name in plan.groups.items():
        shapes[name].add(tuple(model.get_submodule(structure[group].product).weight.shape))
    assert sorted(shapes.values(), key=str) == [{(20, 32)}, {(32, 20)}, {(32, 32)}]
    square = next(curve for name, curve in plan.curves.items() if shapes[name] == {(32, 32)})
    assert (square.max_factored_rank, square.units) == (16, (1, 8, 16, 32))
    narrow = next(curve for name, curve in plan.curves.items() if shapes[name] == {(32, 20)})
    assert (narrow.max_factored_rank, narrow.units[-2:]) == (12, (12, 20))


def test_ranks_are_measured_where_the_matrix_is_a_pair_of_factors() -> None:
    assert measured_units(Kind.RANK, 384, 8, max_factored_rank=192) == (1, 8, 16, 24, 48, 96, 144, 192, 384)
    assert measured_units(Kind.RANK, 24, 8) == (1, 8, 16, 24), (
        "the pair has fewer entries than the matrix at every rank"
    )
