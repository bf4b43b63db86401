"""The runtime ``compiled``: PyTorch with ``torch.compile``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import Execute, Runtime, register
from secateurs.latency.runtimes.torch_runtime import forward_passes
from secateurs.latency.timer import threads
from secateurs.latency.traced import refuse_untraceable
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["CompiledRuntime"]


@register("compiled")
class CompiledRuntime(Runtime):
    """PyTorch with its compiler, for any batch size and length. On a CPU the compiler needs g++ or clang++."""

    def check(self, environment: Environment) -> None:
        """Check that there is a C++ compiler, if the model runs on a CPU.

        Raises:
            RecipeError: there is none.
        """
        super().check(environment)
        if environment.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise RecipeError(
                "runtime compiled needs a C++ compiler (g++ or clang++) on the cpu, and none is installed"
            )

    def prepare(self, model: nn.Module, environment: Environment, example: Mapping[str, Any]) -> Execute:
        """Compile a copy of a model by running the example, so that no timed run compiles.

        Raises:
            UnsupportedModelError: the compiler failed.
        """
        placed = shared_copy(model, environment.device, self.module_dtype(environment)).eval()
        execute = forward_passes(torch.compile(placed, dynamic=True), environment)
        # The number of threads becomes part of the code.
        with refuse_untraceable(self.name, model), threads(environment.threads):
            execute(example)
        return execute
