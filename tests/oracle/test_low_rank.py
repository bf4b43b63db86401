"""Low-rank factors of a matrix against the Eckart-Young theorem and perturbations of the factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateurs.numerics.low_rank import break_even, factors


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INPUTS = drawn(9, 400) * torch.logspace(0, -2, 9, dtype=torch.float64)[:, None]
INPUTS = INPUTS + 0.5 * INPUTS.roll(1, 0)  # correlated directions
GRAM = INPUTS @ INPUTS.T / INPUTS.shape[1]


@pytest.mark.parametrize("shape", [(12, 9), (7, 9), (9, 9)])
@pytest.mark.parametrize("gram", [None, GRAM])
def test_at_full_rank_the_product_is_the_matrix(shape: tuple[int, int], gram: Tensor | None) -> None:
    weight = drawn(*shape)
    first, second = factors(weight, gram=gram)
    assert first.shape == (min(shape), shape[1]) and second.shape == (shape[0], min(shape))
    torch.testing.assert_close(second @ first, weight, atol=1e-12, rtol=0)
    torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))  # equal norms: neither learns faster


@pytest.mark.parametrize("rank", range(1, 9))
def test_without_moments_the_error_is_the_tail_of_the_singular_values(rank: int) -> None:
    weight = drawn(12, 9)
    first, second = factors(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:]
    assert (weight - second @ first).square().sum().item() == pytest.approx(tail.square().sum().item())


@pytest.mark.parametrize("rank", range(1, 9))
def test_with_moments_no_other_factors_are_nearer_on_the_inputs(rank: int) -> None:
    """Compared with factors without moments, with small perturbations, and by their gradient."""
    weight = drawn(12, 9)

    def error(pair: tuple[Tensor, Tensor]) -> float:
        return ((weight - pair[1] @ pair[0]) @ INPUTS).square().sum().item()

    best = factors(weight, rank, gram=GRAM, damping=0.0)
    assert error(best) < error(factors(weight, rank))
    for seed in range(5):
        moved = tuple(part + 1e-3 * part.abs().mean() * drawn(*part.shape, seed=seed) for part in best)
        assert error(best) < error((moved[0], moved[1]))
    for part in best:  # the gradient is 0
        part.requires_grad_()
    ((weight - best[1] @ best[0]) @ INPUTS).square().sum().backward()
    size = (weight @ INPUTS).square().sum()
    assert all((part.grad * part).abs().max() < 1e-9 * size for part in best if part.grad is not None)


def test_components_are_ordered_by_their_contribution() -> None:
    weight = drawn(12, 9)
    first, second = factors(weight, gram=GRAM)
    carried = [(second[:, [k]] @ first[[k]] @ INPUTS).square().sum().item() for k in range(9)]
    assert carried == sorted(carried, reverse=True)
    for rank in (0, 3):
        torch.testing.assert_close(factors(weight, rank, gram=GRAM)[0], first[:rank])


def test_directions_without_data_are_reproduced() -> None:
    gram = torch.zeros(9, 9, dtype=torch.float64)
    gram[:4, :4] = GRAM[:4, :4]
    first, second = factors(drawn(12, 9), gram=gram)
    torch.testing.assert_close(second @ first, drawn(12, 9), atol=1e-9, rtol=0)


def test_break_even_is_the_last_rank_with_no_more_entries() -> None:
    assert break_even(16, 16) == 8
    for inputs, outputs in ((768, 768), (768, 3072), (10, 20), (5, 7), (32, 96)):
        rank = break_even(inputs, outputs)
        assert rank * (inputs + outputs) <= inputs * outputs < (rank + 1) * (inputs + outputs)


@pytest.mark.parametrize("rank", [-1, 10])
def test_an_invalid_rank_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="at most 9"):
        factors(drawn(12, 9), rank)
