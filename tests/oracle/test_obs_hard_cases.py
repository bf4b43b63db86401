"""Structured optimal brain surgeon: dead inputs, singular matrices, matrices that are no Hessians, wrong arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from oracle import naive
from oracle.problems import layer, normal
from secateurs.numerics.level_factor import LevelFactor
from secateurs.numerics.obs import elimination_order
from secateurs.numerics.spd import damped_cholesky


@pytest.mark.parametrize("width", [1, 2])
def test_dead_inputs_are_removed_first_at_no_cost(width: int) -> None:
    weight, hessian = (tensor.clone() for tensor in layer("plain", 6, 24))
    dead = naive.columns_of([5, 8], width)
    hessian[dead, :] = 0.0
    hessian[:, dead] = 0.0
    found = elimination_order(weight, hessian, width=width, block=4)
    assert found.order[:2].tolist() == [5, 8]
    assert found.scores[:2].tolist() == [0.0, 0.0]
    alive = [column for column in range(24) if column not in dead]
    others = [unit for unit in range(24 // width) if unit not in (5, 8)]
    expected = elimination_order(weight[:, alive], hessian[alive][:, alive], width=width)
    assert found.order[2:].tolist() == [others[unit] for unit in expected.order]
    levels = LevelFactor(weight, hessian, found.order, width=width)
    assert float(levels.errors[len(others)]) == 0.0
    assert bool((levels.weight(levels.units)[:, dead] == 0).all())


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_singular_hessians(width: int, dtype: torch.dtype) -> None:
    """With fewer tokens than inputs, as many columns as the rank of the Hessian reproduce the output."""
    weight, inputs = normal(6, 60, seed=5), normal(60, 21, seed=6)
    hessian = inputs @ inputs.T
    found = elimination_order(weight, hessian, width=width, block=6, dtype=dtype)
    units = 60 // width
    assert sorted(found.order.tolist()) == list(range(units))
    everything = float((weight @ hessian @ weight.T).trace())
    assert bool(torch.isfinite(found.scores).all())
    free = units - 21 // width
    assert float(found.scores[:free].sum()) < 1e-2 * everything
    levels = LevelFactor(weight, hessian, found.order, width=width)
    columns = naive.columns_of(levels.kept(21 // width).tolist(), width)
    fitted = torch.zeros_like(weight)
    fitted[:, columns] = levels.weight(21 // width)
    assert naive.output_error(weight, fitted, hessian) < 1e-6 * everything


def test_a_mask_of_dead_inputs_wins_over_the_diagonal() -> None:
    """After damping the diagonal of a dead input is 1, which may be more than that of all others."""
    weight, hessian = (tensor.clone() for tensor in layer("plain", 6, 24))
    hessian *= 1e-9
    dead = torch.zeros(24, dtype=torch.bool)
    dead[[3, 8]] = True
    hessian[dead, :] = 0.0
    hessian[:, dead] = 0.0
    hessian[dead, dead] = 1.0
    found = elimination_order(weight, hessian, dead=dead)
    assert found.order[:2].tolist() == [3, 8]
    assert found.scores[:2].tolist() == [0.0, 0.0]
    levels = LevelFactor(weight, hessian, found.order, dead=dead)
    assert float(levels.errors[22]) == 0.0
    assert bool((levels.weight(23)[:, levels.kept(23) == 8] == 0).all())


@pytest.mark.parametrize("width", [1, 2])
def test_errors_under_another_matrix(width: int) -> None:
    """The weights of a damped fit, measured without damping."""
    weight, hessian = layer("correlated", 6, 24)
    damped = hessian + 0.1 * hessian.diagonal().mean() * torch.eye(24)
    levels = LevelFactor(weight, damped, elimination_order(weight, damped, width=width).order, width=width)
    wanted = []
    for kept in range(levels.units + 1):
        fitted = torch.zeros_like(weight)
        fitted[:, naive.columns_of(levels.kept(kept).tolist(), width)] = levels.weight(kept)
        wanted.append(naive.output_error(weight, fitted, hessian))
    assert levels.errors_under(hessian).tolist() == pytest.approx(wanted, rel=1e-8, abs=1e-9 * wanted[0])
    torch.testing.assert_close(levels.errors_under(damped), levels.errors, rtol=1e-8, atol=1e-9 * wanted[0])


def no_gram_matrices() -> dict[str, Tensor]:
    indefinite = normal(12, 12, seed=3)
    indefinite = indefinite + indefinite.T
    indefinite.diagonal().abs_()
    rounded = normal(12, 3, seed=4)
    rounded = rounded @ rounded.T
    return {
        "zero": torch.zeros(12, 12, dtype=torch.float64),
        "ones": torch.ones(12, 12, dtype=torch.float64),
        "indefinite": indefinite,
        "strongly indefinite": indefinite + 1e6 * (1 - torch.eye(12)),
        "zero diagonal": indefinite - torch.diag(indefinite.diagonal()),
        "one zero on the diagonal": indefinite - torch.diag(indefinite.diagonal() * (torch.arange(12) == 5)),
        "singular by rounding": rounded - 1e-13 * torch.eye(12),
        "tiny": 1e-200 * rounded,
    }


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", no_gram_matrices())
@pytest.mark.timeout(20)
def test_every_search_for_a_damping_ends(name: str, width: int) -> None:
    matrix, weight = no_gram_matrices()[name], normal(4, 12, seed=1)
    factor = damped_cholesky(matrix.numpy(), np.arange(12))
    assert np.isfinite(factor).all() and (np.diagonal(factor) > 0).all()
    found = elimination_order(weight, matrix, width=width)
    assert sorted(found.order.tolist()) == list(range(12 // width))
    levels = LevelFactor(weight, matrix, found.order, width=width)
    assert bool(torch.isfinite(levels.weight(2)).all()) and bool(torch.isfinite(levels.errors_under(matrix)).all())


def test_a_weight_whose_products_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="overflow"):
        elimination_order(torch.full((2, 4), 1e300, dtype=torch.float64), torch.eye(4, dtype=torch.float64))


def test_arguments_are_not_changed() -> None:
    weight, hessian = (tensor.clone() for tensor in layer("plain", 6, 24))
    before = weight.clone(), hessian.clone()
    found = elimination_order(weight, hessian, block=4)
    levels = LevelFactor(weight, hessian, found.order)
    levels.weight(24).zero_()
    levels.weight(7)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])
    torch.testing.assert_close(levels.weight(24), weight)


def test_invalid_arguments_are_refused() -> None:
    weight, hessian = layer("plain", 6, 24)
    with pytest.raises(ValueError, match="24 columns cannot be split into units of width 5"):
        elimination_order(weight, hessian, width=5)
    with pytest.raises(ValueError, match="finite"):
        elimination_order(weight, hessian * float("nan"))
    with pytest.raises(ValueError, match="finite"):
        LevelFactor(weight * float("inf"), hessian, torch.arange(24))
    with pytest.raises(ValueError, match="permutation of 24 units"):
        LevelFactor(weight, hessian, torch.zeros(24, dtype=torch.int64))
    with pytest.raises(ValueError, match="level 25 does not exist: between 0 and 24"):
        LevelFactor(weight, hessian, torch.arange(24)).weight(25)
