"""The kept fraction and its bounds: against the binomial law, a bootstrap, and the coverage of samples."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from secateurs.numerics.kept_fraction import kept_fraction


def answers(right: Tensor) -> Tensor:
    return torch.stack([right.double(), torch.ones(len(right), dtype=torch.float64)], -1)


def test_the_fraction_is_the_ratio_of_the_scores() -> None:
    ours, dense = answers(torch.tensor([1, 0, 1, 0])), answers(torch.tensor([1, 1, 1, 0]))
    assert kept_fraction(ours, dense, confidence=0.95).value == pytest.approx(2 / 3)
    assert kept_fraction(dense, ours, confidence=0.95).value == pytest.approx(3 / 2)


def test_the_kept_likelihood_is_the_ratio_of_perplexities() -> None:
    ours, dense = torch.tensor([[4.0, 2.0], [3.0, 3.0]]), torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    value = kept_fraction(ours, dense, confidence=0.95, nats=True).value
    assert value == pytest.approx(torch.tensor(5 / 5 - 7 / 5).exp().item())


@pytest.mark.parametrize("count", [50, 300, 3000])
def test_no_loss_in_a_sample_bounds_the_loss_almost_as_the_binomial_law_does(count: int) -> None:
    same = answers(torch.ones(count))
    found = kept_fraction(same, same, confidence=0.95)
    exact = 0.05 ** (1 / count)  # Clopper and Pearson
    assert found.value == 1
    assert found.low < 1
    assert (1 - found.low) / (1 - exact) == pytest.approx(2.65 / 3.0, rel=0.05)


@pytest.mark.parametrize("lost", [2, 5, 30])
def test_agreement_has_the_bound_of_the_binomial_law(lost: int) -> None:
    count = 1000
    ours = answers((torch.arange(count) >= lost).double())
    found = kept_fraction(ours, answers(torch.ones(count)), confidence=0.95)
    exact = float(beta.ppf(0.05, count - lost, lost + 1))
    assert 1 - found.low == pytest.approx(1 - exact, rel=0.08)


def test_the_interval_is_that_of_a_paired_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = (torch.rand(600, generator=generator) < 0.9).double()
    flips = torch.rand(600, generator=generator) < 0.05
    ours = torch.where(flips, 1 - dense, dense)
    found = kept_fraction(answers(ours), answers(dense), confidence=0.975)
    drawn = torch.randint(600, (20_000, 600), generator=generator)
    ratios = ours[drawn].sum(-1) / dense[drawn].sum(-1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert found.low == pytest.approx(low.item(), abs=0.003)
    assert found.high == pytest.approx(high.item(), abs=0.003)
    unpaired = (2 * 0.9 * 0.1 / 600) ** 0.5 / 0.9 * 1.96  # half the interval without pairing, which is much wider
    assert found.high - found.value < 0.7 * unpaired


def test_texts_of_many_tokens_count_as_one_draw() -> None:
    """A sum over the tokens of a text is one text: repeated tokens add no certainty."""
    generator = torch.Generator().manual_seed(1)
    dense, ours = (torch.rand(200, 2, generator=generator) + 1 for _ in range(2))
    once = kept_fraction(ours, dense, confidence=0.95, nats=True)
    longer = kept_fraction(50 * ours, 50 * dense, confidence=0.95, nats=True)
    assert longer == pytest.approx(once)


@pytest.mark.parametrize("share", [0.97, 0.99])
def test_the_lower_bound_covers_the_truth(share: float) -> None:
    """Of samples from a model that keeps exactly the share, about one in twenty may claim more."""
    generator = torch.Generator().manual_seed(2)
    claims, draws = 0, 400
    for _ in range(draws):
        dense = (torch.rand(1500, generator=generator) < 0.9).double()
        lost = torch.rand(1500, generator=generator) < 1 - share
        ours = torch.where(lost, torch.zeros_like(dense), dense)
        claims += kept_fraction(answers(ours), answers(dense), confidence=0.95).low > share
    assert claims / draws <= 0.075
