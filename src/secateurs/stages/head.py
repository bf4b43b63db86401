"""What reads the output of the last layer: the first linear module that runs behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from secateurs.layers import layer_paths
from secateurs.structure import Structure
from secateurs.tasks import model_inputs

__all__ = ["first_reader"]


def first_reader(
    model: nn.Module, structure: Structure, batch: dict[str, Tensor], device: torch.device | str = "cpu"
) -> str | None:
    """Path of the first linear module outside the layers that runs behind the last one, seen in one forward pass.

    A pooler, the first half of a classification head, an output embedding. ``None`` where there is none, or where its
    weight is shared (tied embeddings): a shared weight has other duties than to read this stream.
    """
    layers = layer_paths(model, structure)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: list[tuple[str, nn.Module]] = []
    behind = False

    def last(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal behind
        behind = True

    def linear(path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if behind:
                found.append((path, module))

        return hook

    handles = [model.get_submodule(layers[-1]).register_forward_hook(last)]
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{layer}.") for layer in layers)
        if isinstance(module, nn.Linear | Conv1D) and not inside:
            handles.append(module.register_forward_pre_hook(linear(path)))
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
