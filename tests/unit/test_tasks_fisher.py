"""The random losses see the curvature of the divergence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from secateurs.tasks import task

DRAWS, POSITIONS = 40_000, 50
Build = Callable[[Tensor], Any]


def classifier(values: Tensor) -> Any:
    return SimpleNamespace(logits=values)


def language(values: Tensor) -> Any:
    # As many predicting positions a sequence as there are rows for; the last position predicts nothing.
    sequences = values.view(-1, min(len(values), POSITIONS), values.shape[-1])
    return SimpleNamespace(logits=torch.cat([sequences, torch.zeros_like(sequences[:, :1])], 1))


def encoder(values: Tensor) -> Any:
    return SimpleNamespace(last_hidden_state=values[:, None, :])


def tagger(values: Tensor) -> Any:
    return SimpleNamespace(logits=values[:, None, :])


def reader(values: Tensor) -> Any:
    start, end = values.chunk(2, dim=-1)
    return SimpleNamespace(start_logits=start, end_logits=end)


CASES = {
    "classes": ("text_classification", classifier, [0.5, -1.0, 0.2]),
    "score": ("text_classification", classifier, [0.7]),
    "next token": ("causal_lm", language, [0.1, 0.9, -0.4, 0.0]),
    "embedding": ("embedding", encoder, [0.6, -0.8, 1.5]),
    "tag": ("token_classification", tagger, [0.5, -1.0, 0.2]),
    "span": ("question_answering", reader, [0.3, -0.6, 0.8, 0.1]),
}


def batch(outputs: Any) -> dict[str, Tensor]:
    values = next(iter(vars(outputs).values()))
    tokens = values.shape[1] if values.dim() == 3 else 1
    judged = torch.ones(values.shape[:2], dtype=torch.long)
    return {"attention_mask": torch.ones(len(values), tokens, dtype=torch.long), "judged": judged}


def sampled_fisher(name: str, build: Build, values: list[float]) -> Tensor:
    """Mean outer product of the gradients of many rows, each of which draws on its own."""
    rows = torch.tensor([values], dtype=torch.float64).repeat(DRAWS, 1).requires_grad_()
    outputs = build(rows)
    loss = task(name).fisher_loss(outputs, batch(outputs), torch.Generator().manual_seed(0))
    assert loss.shape == ()
    (gradients,) = torch.autograd.grad(loss, rows)
    return gradients.T @ gradients / DRAWS


@pytest.mark.parametrize("case", CASES)
def test_gradients_have_the_hessian_of_the_divergence(case: str) -> None:
    name, build, values = CASES[case]
    judge = task(name)
    at = torch.tensor(values, dtype=torch.float64)

    def signal(point: Tensor) -> Tensor:
        outputs = build(point[None])
        return judge.signal(outputs, batch(outputs))

    expected = hessian(lambda student: judge.divergence(signal(student), signal(at)).sum(), at)
    torch.testing.assert_close(sampled_fisher(name, build, values), expected, atol=0.03, rtol=0.03)


def hessian(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-3) -> Tensor:
    """By central differences: ``f(x) ~ x^T H x / 2`` around the minimum."""
    eye = step * torch.eye(len(at), dtype=at.dtype)
    rows = []
    for a in eye:
        rows.append(
            [
                (function(at + a + b) - function(at + a - b) - function(at - a + b) + function(at - a - b))
                / (4 * step**2)
                for b in eye
            ]
        )
    return torch.tensor(rows, dtype=at.dtype)


def test_the_fisher_of_a_softmax_is_known() -> None:
    name, build, values = CASES["classes"]
    p = torch.tensor(values, dtype=torch.float64).softmax(-1)
    expected = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(sampled_fisher(name, build, values), expected, atol=0.01, rtol=0)


def test_the_same_generator_draws_the_same() -> None:
    outputs = classifier(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    judge = task("text_classification")

    def loss(seed: int) -> float:
        return judge.fisher_loss(outputs, batch(outputs), torch.Generator().manual_seed(seed)).item()

    assert loss(3) == loss(3) != loss(4)
