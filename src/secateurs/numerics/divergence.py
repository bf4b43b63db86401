"""Kullback-Leibler divergence between the predictions of two models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["TEMPERATURE", "kl_direction", "kl_divergence"]

TEMPERATURE = 2.0
"""Temperature of the distributions whose curvature the search by gradients uses (benchmarks/LOG.md)."""


def _at_least_single(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in float32 if they are in half precision, otherwise unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def kl_divergence(
    student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """Kullback-Leibler divergence ``KL(p || q) = sum_c p_c (log p_c - log q_c)`` of softmax distributions, in nats.

    Args:
        student: logits of ``q``.
        teacher: logits of ``p``.

    Returns:
        One divergence per row. Values below 0, which are rounding errors, are set to 0.
    """
    log_student = _at_least_single(student).log_softmax(-1)
    log_teacher = _at_least_single(teacher).log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).clamp_min(0)


def kl_direction(
    teacher: Float[Tensor, "rows classes"], noise: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows classes"]:
    """``v = sqrt(p) * n - p (sqrt(p) . n)``, whose covariance ``diag(p) - p p^T`` is the curvature of ``kl_divergence``.

    ``p`` is taken at the temperature ``TEMPERATURE``. Where the dense model is sure, as it is on texts that it was trained
    on, the curvature at temperature 1 vanishes, and allocations would be chosen by the few texts on which it is not.

    Args:
        teacher: logits of ``p``.
        noise: standard normal ``n``.
    """
    p = (_at_least_single(teacher) / TEMPERATURE).softmax(-1)
    drawn = p.sqrt() * noise
    return drawn - p * drawn.sum(-1, keepdim=True)
