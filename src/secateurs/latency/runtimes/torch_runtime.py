"""The runtime ``torch``: eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import Execute, Runtime, register
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["TorchRuntime", "forward_passes"]


@register("torch")
class TorchRuntime(Runtime):
    """PyTorch without a compiler."""

    keeps_cache: ClassVar[bool] = True

    def prepare(self, model: nn.Module, environment: Environment, example: Mapping[str, Any]) -> Execute:
        """Place a copy of a model on the environment's device in the environment's dtype.

        Args:
            model: model to run; it stays unchanged.
            environment: device and dtype.
            example: not used.

        Returns:
            Function that runs one synchronised forward pass in inference mode on a batch of keyword arguments.
        """
        return forward_passes(
            shared_copy(model, environment.device, self.module_dtype(environment)).eval(), environment
        )


def forward_passes(module: Any, environment: Environment) -> Execute:
    """Function that runs one synchronised forward pass in inference mode on a batch of keyword arguments.

    Args:
        module: module, or what a compiler made of one, on the device of the environment.
        environment: the device.
    """
    on_gpu = environment.device.startswith("cuda")

    def execute(batch: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            output = module(**batch)
        if on_gpu:
            torch.cuda.synchronize(environment.device)
        return output

    return execute
