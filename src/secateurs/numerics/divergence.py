"""Kullback-Leibler divergence between the predictions of two models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kl_divergence"]


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
