"""How far two signals are apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kl_divergence"]


def _at_least_single(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def kl_divergence(
    student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """KL(teacher || student) of the softmax distributions, in nats.

    Args:
        student: logits.
        teacher: logits.

    Returns:
        One divergence a row; rounding below zero is cut off.
    """
    log_student = _at_least_single(student).log_softmax(-1)
    log_teacher = _at_least_single(teacher).log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).clamp_min(0)
