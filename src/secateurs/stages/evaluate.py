"""How far a model's outputs are from those of its dense teacher, on texts nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.tasks import model_inputs

__all__ = ["divergence", "signals"]

Batch = dict[str, Tensor]


def signals(model: nn.Module, task: Any, batches: Sequence[Batch], device: torch.device | str) -> list[Tensor]:
    """The task's signal of every batch (``rows x features``)."""
    return list(_signals(model, task, batches, device))


def divergence(
    model: nn.Module,
    task: Any,
    batches: Sequence[Batch],
    wanted: Sequence[Float[Tensor, "rows features"]],
    device: torch.device | str,
) -> float:
    """Mean over rows of ``task.divergence(model, wanted)``."""
    pairs = zip(_signals(model, task, batches, device), wanted, strict=True)
    return float(torch.cat([task.divergence(ours, theirs).double().cpu() for ours, theirs in pairs]).mean())


def _signals(model: nn.Module, task: Any, batches: Sequence[Batch], device: torch.device | str) -> Iterator[Tensor]:
    model.eval()
    for batch in batches:
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            yield task.signal(model(**model_inputs(inputs)), inputs)
