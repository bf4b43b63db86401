"""Order, scores, errors and weights of the structured optimal brain surgeon against exhaustive trials with refits."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import naive
from oracle.problems import layer, normal
from secateurs.numerics.level_factor import LevelFactor
from secateurs.numerics.obs import elimination_order

WEIGHT = torch.tensor([[1, -2, 0.5, 3], [0, 1.5, -1, 2]], dtype=torch.float64)
HESSIAN = torch.tensor([[4, 1, 0.5, 0], [1, 3, 0.2, 0.4], [0.5, 0.2, 2, -0.6], [0, 0.4, -0.6, 5]], dtype=torch.float64)


@functools.cache
def naive_steps(kind: str, rows: int, cols: int, width: int) -> list[naive.NaiveStep]:
    return naive.eliminate(*layer(kind, rows, cols), width)


# Known numbers


@pytest.mark.parametrize("block", [1, 2, 64])
def test_known_single_columns(block: int) -> None:
    found = elimination_order(WEIGHT, HESSIAN, block=block)
    assert found.order.tolist() == [2, 0, 1, 3]
    expected = torch.tensor([2.324917, 4.138695, 13.756388, 63.730000], dtype=torch.float64)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-6)
    assert float(found.scores.sum()) == pytest.approx(83.95)
    levels = LevelFactor(WEIGHT, HESSIAN, found.order)
    errors = torch.tensor([83.95, 20.22, 6.463612, 2.324917, 0.0], dtype=torch.float64)
    torch.testing.assert_close(levels.errors, errors, rtol=0, atol=1e-6)
    three = torch.tensor([[1.056843, -1.977373, 2.938190], [-0.113687, 1.454746, 2.123620]], dtype=torch.float64)
    two = torch.tensor([[-1.621294, 2.909704], [1.416442, 2.126685]], dtype=torch.float64)
    one = torch.tensor([[2.78], [2.24]], dtype=torch.float64)
    for level, units, weight in [(3, [0, 1, 3], three), (2, [1, 3], two), (1, [3], one)]:
        assert levels.kept(level).tolist() == units
        torch.testing.assert_close(levels.weight(level), weight, rtol=0, atol=1e-6)
    assert levels.weight(0).shape == (2, 0)
    torch.testing.assert_close(levels.weight(4), WEIGHT)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_known_pairs_of_columns(block: int) -> None:
    found = elimination_order(WEIGHT, HESSIAN, width=2, block=block)
    assert found.order.tolist() == [0, 1]
    expected = torch.tensor([18.478216, 65.471784], dtype=torch.float64)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-6)
    levels = LevelFactor(WEIGHT, HESSIAN, found.order, width=2)
    weight = torch.tensor([[0.502075, 2.840249], [-0.807054, 2.143154]], dtype=torch.float64)
    torch.testing.assert_close(levels.weight(1), weight, rtol=0, atol=1e-6)
    assert float(levels.errors[1]) == pytest.approx(18.478216, abs=1e-6)


def test_known_damped() -> None:
    damped = HESSIAN + 0.035 * torch.eye(4)
    found = elimination_order(WEIGHT, damped)
    assert found.order.tolist() == [2, 0, 1, 3]
    expected = torch.tensor([2.369981, 4.178422, 13.972781, 64.181316], dtype=torch.float64)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-6)
    levels = LevelFactor(WEIGHT, damped, found.order)
    row = torch.tensor([1.056393, -1.977544, 2.938633], dtype=torch.float64)
    torch.testing.assert_close(levels.weight(3)[0], row, rtol=0, atol=1e-6)
    fitted = torch.zeros(2, 4, dtype=torch.float64)
    fitted[:, [0, 1, 3]] = levels.weight(3)
    assert naive.output_error(WEIGHT, fitted, HESSIAN) == pytest.approx(2.324927, abs=1e-6)


def test_known_duplicates_one_is_free_and_its_weight_moves_to_the_other() -> None:
    inputs = torch.tensor([[1, 2, 3, 0.5], [1, 2, 3, 0.5], [0.2, -1, 0.3, 2]], dtype=torch.float64)
    hessian = inputs @ inputs.T + 1e-6 * torch.eye(3)
    weight = torch.tensor([[1, 1, 0.3], [2, -1, 0.1]], dtype=torch.float64)
    found = elimination_order(weight, hessian)
    assert found.order.tolist() == [1, 2, 0]
    assert float(found.scores[0]) == pytest.approx(4e-6, rel=0.5)
    assert found.scores[1:].tolist() == pytest.approx([0.512930, 71.390073], abs=1e-5)
    weights = LevelFactor(weight, hessian, found.order).weight(2)
    expected = torch.tensor([[2, 0.3], [1, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


# Against exhaustive trials


@pytest.mark.parametrize("kind", ["plain", "correlated", "ill-conditioned"])
@pytest.mark.parametrize(("rows", "cols", "width"), [(6, 24, 1), (30, 24, 1), (5, 24, 2), (7, 24, 3), (40, 24, 4)])
def test_order_scores_errors_and_weights_match_refitting(kind: str, rows: int, cols: int, width: int) -> None:
    weight, hessian = layer(kind, rows, cols)
    steps = naive_steps(kind, rows, cols, width)
    scores = torch.tensor([step.score for step in steps], dtype=torch.float64)
    for block in (1, 5, 8, 64, 128):
        found = elimination_order(weight, hessian, width=width, block=block)
        assert found.order.tolist() == [step.unit for step in steps]
        torch.testing.assert_close(found.scores, scores, rtol=1e-6, atol=1e-9 * float(scores.sum()))
    levels = LevelFactor(weight, hessian, found.order, width=width)
    for step in steps:
        kept = len(step.survivors)
        assert levels.kept(kept).tolist() == step.survivors
        expected = step.weight[:, naive.columns_of(step.survivors, width)]
        torch.testing.assert_close(levels.weight(kept), expected, rtol=1e-6, atol=1e-8)
        assert float(levels.errors[kept]) == pytest.approx(step.error, rel=1e-6, abs=1e-9 * float(scores.sum()))


@pytest.mark.parametrize(
    ("cols", "width", "block"), [(200, 1, 16), (200, 1, 64), (120, 2, 16), (256, 64, 64), (120, 3, 48)]
)
def test_larger_orders_match_the_textbook_recursion(cols: int, width: int, block: int) -> None:
    weight, hessian = layer("correlated", 50, cols)
    order, scores = naive.downdates(weight, hessian, width)
    found = elimination_order(weight, hessian, width=width, block=block)
    assert found.order.tolist() == order
    torch.testing.assert_close(found.scores, torch.tensor(scores, dtype=torch.float64), rtol=1e-7, atol=1e-9)


def test_float32_downdates_give_the_same_order_on_a_damped_hessian() -> None:
    weight, hessian = layer("correlated", 50, 200)
    hessian = hessian + 1e-2 * hessian.diagonal().mean() * torch.eye(200)
    exact = elimination_order(weight, hessian)
    single = elimination_order(weight, hessian, dtype=torch.float32)
    assert single.order.tolist() == exact.order.tolist()
    torch.testing.assert_close(single.scores, exact.scores, rtol=1e-3, atol=1e-5 * float(exact.scores.max()))


@pytest.mark.parametrize("width", [1, 2])
def test_one_of_two_duplicates_is_free(width: int) -> None:
    weight, hessian = layer("duplicated", 6, 24)
    found = elimination_order(weight, hessian, width=width, block=5)
    free = found.order[: 12 // width]
    assert len({unit % (12 // width) for unit in free.tolist()}) == 12 // width  # one of each pair
    assert float(found.scores[: 12 // width].sum()) < 1e-4 * float(found.scores.sum())
    steps = naive_steps("duplicated", 6, 24, width)
    errors = torch.tensor([step.error for step in steps], dtype=torch.float64)
    torch.testing.assert_close(found.scores.cumsum(0), errors, rtol=1e-5, atol=1e-6 * float(errors[-1]))


# Invariants of any layer


@pytest.mark.parametrize("width", [1, 4])
def test_invariants(width: int) -> None:
    weight, hessian = layer("correlated", 10, 24)
    found = elimination_order(weight, hessian, width=width)
    levels = LevelFactor(weight, hessian, found.order, width=width)
    everything = float((weight @ hessian @ weight.T).trace())
    assert float(found.scores.sum()) == pytest.approx(everything)
    assert float(levels.errors[0]) == pytest.approx(everything)
    assert float(levels.errors[-1]) == 0.0
    assert bool((found.scores >= 0).all())
    assert bool((levels.errors.diff() <= 0).all())
    rises = -levels.errors.diff().flip(0)
    torch.testing.assert_close(rises, found.scores, rtol=1e-8, atol=1e-8 * everything)
    for kept in range(1, levels.units):
        columns = naive.columns_of(levels.kept(kept).tolist(), width)
        fitted = torch.zeros_like(weight)
        fitted[:, columns] = levels.weight(kept)
        gradient = (weight - fitted) @ hessian
        assert float(gradient[:, columns].abs().max()) < 1e-8 * float((weight @ hessian).abs().max())


def test_levels_depend_only_on_the_kept_units() -> None:
    weight, hessian = layer("correlated", 6, 24)
    order = elimination_order(weight, hessian).order
    shuffled = torch.cat([order[:10].flip(0), order[10:].flip(0)])
    first, second = LevelFactor(weight, hessian, order), LevelFactor(weight, hessian, shuffled)
    assert first.kept(14).tolist() == second.kept(14).tolist()
    torch.testing.assert_close(first.weight(14), second.weight(14))
    torch.testing.assert_close(first.errors[14], second.errors[14])


def test_one_pair_equals_two_singles() -> None:
    weight, hessian = layer("plain", 6, 24)
    pairs = LevelFactor(weight, hessian, torch.arange(12), width=2)
    singles = LevelFactor(weight, hessian, torch.arange(24))
    torch.testing.assert_close(pairs.errors, singles.errors[::2])
    torch.testing.assert_close(pairs.weight(5), singles.weight(10))


def test_with_orthogonal_inputs_the_order_is_by_weight_norm() -> None:
    weight = normal(5, 40, seed=4)
    found = elimination_order(weight, torch.eye(40, dtype=torch.float64), block=8)
    assert found.order.tolist() == weight.norm(dim=0).argsort().tolist()
    torch.testing.assert_close(found.scores, weight.square().sum(0).sort().values)


def test_scaling_the_inputs_scales_the_scores() -> None:
    weight, hessian = layer("correlated", 6, 24)
    plain, scaled = elimination_order(weight, hessian), elimination_order(weight, 1e8 * hessian)
    assert scaled.order.tolist() == plain.order.tolist()
    torch.testing.assert_close(scaled.scores, 1e8 * plain.scores)
    torch.testing.assert_close(
        LevelFactor(weight, 1e8 * hessian, plain.order).weight(9), LevelFactor(weight, hessian, plain.order).weight(9)
    )


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), width=st.sampled_from([1, 2, 3]), block=st.sampled_from([1, 4, 128]))
def test_permuting_the_units_permutes_the_order(seed: int, width: int, block: int) -> None:
    units = 8
    weight, inputs = normal(4, units * width, seed=seed), normal(units * width, 60, seed=seed + 1)
    hessian = inputs @ inputs.T
    places = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    columns = naive.columns_of(places.tolist(), width)
    plain = elimination_order(weight, hessian, width=width, block=block)
    moved = elimination_order(weight[:, columns], hessian[columns][:, columns], width=width, block=block)
    assert places[moved.order].tolist() == plain.order.tolist()
    torch.testing.assert_close(moved.scores, plain.scores)


def test_scaling_one_input_against_its_weight_changes_nothing() -> None:
    weight, hessian = layer("correlated", 6, 24)
    scale = torch.logspace(-6, 6, 24, dtype=torch.float64)
    plain = elimination_order(weight, hessian)
    scaled = elimination_order(weight / scale, hessian * scale * scale[:, None])
    assert scaled.order.tolist() == plain.order.tolist()
    torch.testing.assert_close(scaled.scores, plain.scores, rtol=1e-6, atol=1e-9)


def test_of_equal_scores_the_lowest_index_is_removed_first() -> None:
    weight = torch.ones(2, 30, dtype=torch.float64)
    weight[:, 7] = 0.5
    for block in (1, 4, 64):
        found = elimination_order(weight, torch.eye(30, dtype=torch.float64), block=block)
        assert found.order.tolist() == [7, *(unit for unit in range(30) if unit != 7)]
        found = elimination_order(weight, torch.eye(30, dtype=torch.float64), width=2, block=block)
        assert found.order.tolist() == [3, *(unit for unit in range(15) if unit != 3)]


@pytest.mark.parametrize(("width", "keep"), [(1, 0), (1, 5), (1, 23), (1, 24), (1, 40), (4, 2), (4, 6)])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_an_elimination_that_ends_early_removes_the_same_units_first(width: int, keep: int, block: int) -> None:
    weight, hessian = layer("correlated", 6, 24)
    dead = torch.zeros(24, dtype=torch.bool)
    dead[4:8] = True
    whole = elimination_order(weight, hessian, width=width, dead=dead, block=block)
    early = elimination_order(weight, hessian, width=width, dead=dead, block=block, keep=keep)
    units = 24 // width
    removed = max(units - keep, int(dead.reshape(units, width).all(1).sum()))
    assert early.order[:removed].tolist() == whole.order[:removed].tolist()
    assert early.order[removed:].tolist() == sorted(whole.order[removed:].tolist())
    torch.testing.assert_close(early.scores, whole.scores[:removed])
