"""Running moments and damping against sums over single tokens."""

from __future__ import annotations

import pytest
import torch

from oracle import naive
from secateurs.numerics.hessian import Moments, damped


def inputs_of(tokens: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_match_sums_token_by_token(dtype: torch.dtype, tolerance: float, weighted: bool) -> None:
    inputs = inputs_of(300, 7)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1)) if weighted else None
    seen = Moments(7, dtype=dtype)
    for start in range(0, 300, 90):
        seen.update(inputs[start : start + 90], None if weights is None else weights[start : start + 90])
    gram, total, count = naive.moments(inputs, weights)
    # The square roots of the weights are rounded to the dtype of the products, hence a tolerance relative to the matrix.
    scale = float(gram.abs().max())
    torch.testing.assert_close(seen.gram, gram, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(seen.total, total, rtol=0, atol=tolerance * scale)
    assert seen.count == pytest.approx(count, rel=1e-6)
    assert torch.equal(seen.gram, seen.gram.T)


def test_chunks_and_panels_do_not_change_the_sums() -> None:
    inputs = inputs_of(5000, 600).double()  # more tokens than a chunk, more inputs than a panel
    seen = Moments(600, dtype=torch.float64)
    seen.update(inputs)
    torch.testing.assert_close(seen.gram, inputs.T @ inputs, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(seen.total, inputs.sum(0), rtol=1e-12, atol=1e-9)
    assert seen.count == 5000


def test_sums_across_chunks_are_float64() -> None:
    ones = torch.ones(2**13, 1)
    ones[::2] = -1
    seen = Moments(1)
    seen._panels[0] += 2.0**24  # from here a float32 sum cannot count single tokens
    seen.count = 1.0
    seen.update(ones)
    assert float(seen.centred()) == 2.0**24 + 2.0**13


def test_tokens_of_weight_zero_are_not_read() -> None:
    inputs = inputs_of(6, 3)
    poisoned = inputs.clone()
    poisoned[4:] = float("nan")
    seen, expected = Moments(3), Moments(3)
    seen.update(poisoned, torch.tensor([1.0, 1, 1, 1, 0, 0]))
    expected.update(inputs[:4])
    torch.testing.assert_close(seen.gram, expected.gram)
    torch.testing.assert_close(seen.total, expected.total)
    assert seen.count == 4


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Moments(3).update(inputs_of(2, 3), torch.tensor([1.0, -1.0]))


def test_low_precision_inputs_are_summed_in_full_precision() -> None:
    inputs = inputs_of(500, 5).bfloat16()
    seen = Moments(5)
    seen.update(inputs)
    gram, total, _ = naive.moments(inputs.double())
    torch.testing.assert_close(seen.gram, gram, rtol=1e-6, atol=0)
    torch.testing.assert_close(seen.total, total, rtol=1e-6, atol=0)


def test_centred_is_the_covariance_times_the_count() -> None:
    inputs = inputs_of(200, 6).double()
    seen = Moments(6, dtype=torch.float64)
    seen.update(inputs)
    torch.testing.assert_close(seen.centred(), torch.cov(inputs.T) * 199)
    with pytest.raises(ValueError, match="no token"):
        Moments(6).centred()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_input_varies_by_exactly_zero(dtype: torch.dtype, weighted: bool) -> None:
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        inputs = torch.randn(500, 4, generator=draw, dtype=dtype)
        inputs[:, 2] = 3 * torch.randn((), generator=draw, dtype=dtype)
        weights = torch.rand(500, generator=draw) if weighted else None
        seen = Moments(4, dtype=dtype)
        for start in range(0, 500, 77):
            seen.update(inputs[start : start + 77], None if weights is None else weights[start : start + 77])
        assert bool((seen.centred()[2] == 0).all())
        assert seen.dead(centred=True).tolist() == [False, False, True, False]
        assert seen.dead(centred=False).tolist() == [False] * 4
        damped(seen.centred())


def test_no_variance_is_negative() -> None:
    """Inputs that vary by a rounding error of their mean, in one row or in half of them."""
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        inputs = (100 * torch.randn(5, generator=draw)).expand(300, 5).clone()
        inputs[:1, 0] *= 1 + 2e-7
        inputs[::2, 1] *= 1 + 2e-7
        inputs[:, 2] += 1e-3 * torch.randn(300, generator=draw)
        seen = Moments(5)
        seen.update(inputs[:100], torch.rand(100, generator=draw) ** 8)
        seen.update(inputs[100:])
        assert bool((seen.centred().diagonal() >= 0).all())
        assert seen.dead(centred=True).tolist() == [True, True, False, True, True]
        spread = inputs[:, 2].double().var(correction=0) * 300
        assert float(seen.centred()[2, 2]) < 1.5 * float(spread)


def test_a_large_mean_costs_no_digits_of_the_covariance() -> None:
    inputs = inputs_of(3000, 6)
    near, far = Moments(6), Moments(6)
    near.update(inputs)
    far.update(inputs + 2.0**10)
    expected = torch.cov(inputs.double().T) * 2999
    torch.testing.assert_close(near.centred(), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(far.centred(), expected, rtol=0, atol=3000 * 2**-12)  # the inputs are rounded to 2^-14


def test_state_round_trip() -> None:
    seen = Moments(4)
    seen.update(inputs_of(30, 4))
    again = Moments.from_state(seen.state_dict())
    assert torch.equal(again.gram, seen.gram)
    assert torch.equal(again.total, seen.total)
    assert again.count == seen.count
    again.update(inputs_of(30, 4, seed=1))
    assert again.count == 60
    assert not torch.equal(again.gram, seen.gram)


def test_moments_do_not_require_gradients() -> None:
    inputs = inputs_of(5, 3).requires_grad_()
    seen = Moments(3)
    seen.update(inputs)
    assert not seen.gram.requires_grad


def test_damping_adds_a_share_of_the_mean_diagonal() -> None:
    gram = torch.tensor([[4.0, 1, 0.5, 0], [1, 3, 0.2, 0.4], [0.5, 0.2, 2, -0.6], [0, 0.4, -0.6, 5]])
    kept = gram.clone()
    expected = gram.double() + 0.035 * torch.eye(4).double()
    torch.testing.assert_close(damped(gram), expected)
    torch.testing.assert_close(damped(gram, 0.0), gram.double())
    assert torch.equal(gram, kept)


def test_dead_inputs_get_one_on_the_diagonal_and_do_not_move_the_mean() -> None:
    gram = torch.diag(torch.tensor([2.0, 0.0, 4.0]))
    torch.testing.assert_close(damped(gram), torch.diag(torch.tensor([2.03, 1.0, 4.03]).double()))
    torch.testing.assert_close(damped(torch.zeros(2, 2)), torch.eye(2).double())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_damping_refuses_a_matrix_that_is_not_a_gram_matrix(bad: float) -> None:
    gram = torch.eye(3)
    gram[1, 1] = bad
    with pytest.raises(ValueError, match="not finite, or a diagonal entry is negative"):
        damped(gram)


@pytest.mark.parametrize("place", [0, 50, 99])
def test_one_huge_token_takes_no_digits_from_the_others(place: int) -> None:
    """As the first token of some language models."""
    inputs = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    inputs[place] *= 1e6
    moments = Moments(6)
    weights = torch.ones(100)
    weights[place] = 1e-12  # so that the sum shows the others
    moments.update(inputs, weights)
    mean = moments.mean
    others = inputs.double()[torch.arange(100) != place]
    wanted = (others - mean).T @ (others - mean)
    ours = moments.centred() - weights[place].double() * torch.outer(inputs[place] - mean, inputs[place] - mean)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1500])
def test_half_of_the_matrix_is_stored(size: int) -> None:
    seen = Moments(size)
    assert sum(panel.nbytes for panel in seen._panels) == Moments.bytes_for(size)
    assert Moments.bytes_for(size) <= 4 * size * (size + 512)
    seen.update(inputs_of(40, size))
    assert torch.equal(seen.centred(), seen.centred().T)
    restored = Moments.from_state(seen.state_dict())
    assert torch.equal(restored.gram, seen.gram)
