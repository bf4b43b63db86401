"""Random directions: their covariance is the curvature of the divergence that a task compares models by."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secateurs.numerics import divergence
from secateurs.tasks import task

CASES = [
    ("text_classification", 4),
    ("text_classification", 1),
    ("multi_label_classification", 6),
    ("embedding", 5),
    ("token_classification", 3),
    ("question_answering", 7),
    ("causal_lm", 9),
]


@pytest.mark.parametrize(("name", "features"), CASES)
def test_half_the_mean_square_of_projections_is_the_divergence(
    name: str, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "TEMPERATURE", 1.0)
    own: Any = task(name)
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, features, generator=generator).double()
    if name == "multi_label_classification":
        teacher[:, ::2] = 0.0  # the logit of not having a class
    change = 1e-3 * torch.randn(1, features, generator=generator).double()
    if name == "multi_label_classification":
        change[:, ::2] = 0.0
    noise = torch.randn(200_000, features, generator=generator).double()
    drawn = own.direction(teacher.expand(len(noise), -1), noise)
    estimated = float(((drawn * change).sum(-1) ** 2).mean()) / 2
    assert estimated == pytest.approx(float(own.divergence(teacher + change, teacher)), rel=0.02)


def test_a_higher_temperature_keeps_the_curvature_where_the_model_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    sure, noise = torch.tensor([[9.0, -9.0]]), torch.ones(1, 2)
    lengths = []
    for temperature in (1.0, 2.0):
        monkeypatch.setattr(divergence, "TEMPERATURE", temperature)
        lengths.append(float(divergence.kl_direction(sure, noise).norm()))
    assert lengths[1] > 50 * lengths[0]
