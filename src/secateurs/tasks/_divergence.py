"""How far two signals are apart, and random losses whose gradients see the same curvature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["gaussian_projection", "kl_divergence", "sampled_nll"]


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


def sampled_nll(logits: Float[Tensor, "rows classes"], generator: torch.Generator) -> Float[Tensor, ""]:
    """``-log p(y)`` summed over rows, with ``y`` drawn from the model's own ``p``.

    Its gradient is one sample of the score, so ``E[g g^T]`` is the Fisher information: for the logits of one row
    ``diag(p) - p p^T`` (Martens, New Insights and Perspectives on the Natural Gradient Method, section 5).

    Args:
        logits: of the model, with gradients.
        generator: on the device where the labels shall be drawn; the CPU makes them the same everywhere.
    """
    log_probabilities = _at_least_single(logits).log_softmax(-1)
    probabilities = log_probabilities.detach().exp().to(generator.device)
    drawn = torch.multinomial(probabilities, 1, generator=generator).to(logits.device)
    return -log_probabilities.gather(-1, drawn).sum()


def gaussian_projection(
    signal: Float[Tensor, "rows features"], scale: float, generator: torch.Generator
) -> Float[Tensor, ""]:
    """``scale * sum(signal * noise)`` with standard normal noise: the gradient has ``E[g g^T] = scale^2 J^T J``.

    Args:
        signal: of the model, with gradients; ``J`` is its Jacobian.
        scale: square root of the curvature of the divergence in the signal.
        generator: of the noise.
    """
    signal = _at_least_single(signal)
    noise = torch.randn(signal.shape, generator=generator, device=generator.device, dtype=signal.dtype)
    return scale * (signal * noise.to(signal.device)).sum()
