"""The runtime ``torch``: eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import register
from secateurs.latency.workload import DTYPES
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["prepare"]


@register("torch", keeps_cache=True)
def prepare(model: nn.Module, environment: Environment) -> Callable[[Mapping[str, Any]], Any]:
    """Place a copy of a model on the environment's device in the environment's dtype.

    Args:
        model: model to run; it stays unchanged.
        environment: device and dtype.

    Returns:
        Function that runs one synchronised forward pass in inference mode on a batch of keyword arguments.
    """
    placed = shared_copy(model, environment.device, DTYPES[environment.dtype]).eval()
    on_gpu = environment.device.startswith("cuda")

    def run(batch: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            output = placed(**batch)
        if on_gpu:
            torch.cuda.synchronize(environment.device)
        return output

    return run
