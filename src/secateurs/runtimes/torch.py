"""Eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from secateurs.environment import Environment
from secateurs.runtimes import register
from secateurs.workload import DTYPES, twin

__all__ = ["prepare"]


@register("torch")
def prepare(model: nn.Module, environment: Environment) -> Callable[[Mapping[str, Any]], Any]:
    """Place a copy on the environment's device in its dtype; each call is one forward pass, synchronised."""
    placed = twin(model, environment.device, DTYPES[environment.dtype]).eval()
    on_gpu = environment.device.startswith("cuda")

    def run(batch: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            output = placed(**batch)
        if on_gpu:
            torch.cuda.synchronize(environment.device)
        return output

    return run
