"""The divergence of a model's outputs from the outputs of its dense teacher, on batches that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.tasks.base import Batch, Task, model_inputs

__all__ = ["divergence", "record_outputs"]


def record_outputs(
    model: nn.Module, task: Task, batches: Sequence[Batch], device: torch.device | str
) -> list[Float[Tensor, "rows features"]]:
    """The compared outputs of every batch.

    Args:
        model: the model, on ``device``; left in evaluation mode.
        task: defines the compared outputs.
        batches: batches on the CPU.
        device: device of ``model``.
    """
    return list(_compared_outputs(model, task, batches, device))


def divergence(
    model: nn.Module,
    task: Task,
    batches: Sequence[Batch],
    wanted: Sequence[Float[Tensor, "rows features"]],
    device: torch.device | str,
) -> float:
    """Mean over all rows of ``task.divergence(outputs of the model, outputs of the teacher)``.

    Args:
        model: the pruned model, on ``device``; left in evaluation mode.
        task: defines the compared outputs and their divergence.
        batches: batches on the CPU.
        wanted: the teacher's compared outputs of the same batches, from ``record_outputs``.
        device: device of ``model``.
    """
    pairs = zip(_compared_outputs(model, task, batches, device), wanted, strict=True)
    return float(torch.cat([task.divergence(ours, theirs).double().cpu() for ours, theirs in pairs]).mean())


def _compared_outputs(
    model: nn.Module, task: Task, batches: Sequence[Batch], device: torch.device | str
) -> Iterator[Float[Tensor, "rows features"]]:
    model.eval()
    for batch in batches:
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            yield task.compared_outputs(model(**model_inputs(inputs)), inputs)
