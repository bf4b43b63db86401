"""The module that reads the output of the last layer: the first linear module that runs after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from secateurs.structure.layers import layer_paths
from secateurs.structure.structure import Structure
from secateurs.tasks.base import Batch, model_inputs

__all__ = ["first_linear_of_head"]


def first_linear_of_head(
    model: nn.Module, structure: Structure, batch: Batch, device: torch.device | str = "cpu"
) -> str | None:
    """Path of the first linear module outside the layers that runs after the last layer, seen in one forward pass.

    It is a pooler, the first half of a classification head, or an output embedding.

    Args:
        model: a transformers model, on ``device``.
        structure: names the layers.
        batch: inputs for the forward pass; one row is used.
        device: device of the model.

    Returns:
        ``None`` where there is no such module, or where its weight is shared (tied embeddings): a shared weight has
        another use than reading this output.
    """
    layers = layer_paths(model, structure)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: list[tuple[str, nn.Module]] = []
    layers_done = False

    def after_last_layer(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal layers_done
        layers_done = True

    def before_linear(path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if layers_done:
                found.append((path, module))

        return hook

    handles = [model.get_submodule(layers[-1]).register_forward_hook(after_last_layer)]
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{layer}.") for layer in layers)
        if isinstance(module, nn.Linear | Conv1D) and not inside:
            handles.append(module.register_forward_pre_hook(before_linear(path)))
    try:
        with torch.inference_mode():
            model(**{name: value[:1].to(device) for name, value in model_inputs(batch).items()})
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return None
    path, module = found[0]
    return path if owners[id(module.weight)] == 1 else None
