"""How much of a score a pruned model keeps of the dense model's, with a bound: the two are paired text by text.

A score is a ratio of two sums over texts, such as right answers / answers, or nats / tokens. The standard error of the kept
fraction is that of the jackknife, which leaves out one text at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["KeptFraction", "kept_fraction"]


class KeptFraction(NamedTuple):
    """Score of the pruned model / score of the dense model, and a bound on either side."""

    value: float
    low: float
    high: float


def kept_fraction(
    ours: Float[Tensor, "texts 2"], dense: Float[Tensor, "texts 2"], *, confidence: float, nats: bool = False
) -> KeptFraction:
    """The kept fraction of a score, and its one-sided bounds.

    A text that the pruned model loses, and the dense model does not, is added before the lower bound is taken. Without it, a
    sample without a loss would seem to prove that there is none. With it, ``n`` such texts bound the loss by 2.65 / ``n`` at
    95 %; the binomial law says 3 / ``n``.

    Args:
        ours: numerator and denominator of the pruned model's score, for every text; at least 2 texts.
        dense: the same of the dense model.
        confidence: probability with which each bound holds, below 1: 0.975 makes a two-sided interval of 95 %.
        nats: the score is a mean negative log-likelihood; the kept fraction is ``exp(dense - ours)``, the ratio of the
            perplexities, and no text is added.

    Returns:
        The fraction and its bounds; NaN where the dense score is 0.
    """
    from scipy.stats import t

    ours, dense = ours.double(), dense.double()
    value, error = _jackknife(ours, dense, nats=nats)
    low, low_error = (value, error) if nats else _jackknife(*_with_a_loss(ours, dense), nats=nats)
    quantile = float(t.ppf(confidence, len(ours) - 1))
    return KeptFraction(value, low - quantile * low_error, value + quantile * error)


def _with_a_loss(
    ours: Float[Tensor, "texts 2"], dense: Float[Tensor, "texts 2"]
) -> tuple[Float[Tensor, "texts_and_one 2"], Float[Tensor, "texts_and_one 2"]]:
    """One more text of average size, which the dense model answers fully, and the pruned model not at all."""
    size, dense_size = ours[:, 1].mean(), dense[:, 1].mean()
    lost = torch.stack([torch.zeros_like(size), size])
    return torch.cat([ours, lost[None]]), torch.cat([dense, dense_size.expand(1, 2)])


def _jackknife(ours: Float[Tensor, "texts 2"], dense: Float[Tensor, "texts 2"], *, nats: bool) -> tuple[float, float]:
    """The kept fraction of all texts, and its standard error."""
    sums, dense_sums = ours.sum(0), dense.sum(0)
    left_out = _fraction(sums - ours, dense_sums - dense, nats=nats)
    count = len(left_out)
    error = ((count - 1) / count * (left_out - left_out.mean()).square().sum()).sqrt()
    return float(_fraction(sums, dense_sums, nats=nats)), float(error)


def _fraction(ours: Float[Tensor, "*sets 2"], dense: Float[Tensor, "*sets 2"], *, nats: bool) -> Float[Tensor, "*sets"]:
    score, dense_score = ours[..., 0] / ours[..., 1], dense[..., 0] / dense[..., 1]
    return (dense_score - score).exp() if nats else score / dense_score
