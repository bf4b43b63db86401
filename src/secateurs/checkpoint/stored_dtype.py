"""The dtype in which a checkpoint stores its weights, and its use for the pruned model.

All of a run computes in float32. A checkpoint in half precision is handed over in half precision again: the weights of the
pruned model are rounded before they are evaluated, so that what is evaluated is what is saved.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from secateurs.checkpoint.dense_files import model_file

__all__ = ["cast_weights", "round_weights", "stored_dtype"]

logger = logging.getLogger(__name__)

HALF = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Names of the dtypes of half precision in safetensors files."""

WEIGHTS = "model.safetensors"


def stored_dtype(source: str, *, subfolder: str = "", revision: str | None = None) -> torch.dtype:
    """The dtype in which most weights of a checkpoint are stored: float16, bfloat16, or float32 for all others.

    The files decide, and not the config, which may name another dtype.

    Args:
        source: folder or hub id.
        subfolder: subfolder of ``source`` that holds the weights.
        revision: branch, tag or commit on the hub.
    """
    from safetensors import safe_open

    sizes: Counter[str] = Counter()
    for path in _weight_files(source, f"{subfolder}/" if subfolder else "", revision):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                part = tensors.get_slice(name)
                if part.get_dtype() in ("F64", "F32", *HALF):
                    sizes[part.get_dtype()] += prod(part.get_shape())
    name = max(sizes, key=lambda name: sizes[name], default="F32")
    return HALF.get(name, torch.float32)


def round_weights(model: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Round the weights of a model, in place, to values that ``dtype`` can hold. The tensors keep their own dtype.

    Args:
        model: model in float32 or float64.
        dtype: dtype in which the model will be saved.

    Returns:
        ``dtype``; or float32, with unchanged weights, if a weight is too large for ``dtype``.
    """
    if dtype == torch.float32:
        return dtype
    limit = torch.finfo(dtype).max
    if any(bool((tensor.detach().abs() > limit).any()) for tensor in _weights(model)):
        logger.warning("a weight of the pruned model is too large for %s; the model is saved in float32", dtype)
        return torch.float32
    with torch.no_grad():
        for tensor in _weights(model):
            tensor.copy_(tensor.to(dtype))
    return dtype


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of a model, in place; tied weights stay tied. float32 changes nothing."""
    if dtype != torch.float32:
        for tensor in _weights(model):
            tensor.data = tensor.data.to(dtype)


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and saved buffers with floating-point values, each once."""
    seen: set[int] = set()
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _weight_files(source: str, folder: str, revision: str | None) -> list[Path]:
    """The safetensors files of a checkpoint."""
    whole = model_file(source, folder + WEIGHTS, revision)
    if whole is not None:
        return [whole]
    index = model_file(source, f"{folder}{WEIGHTS}.index.json", revision)
    if index is None:
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found = [model_file(source, folder + name, revision) for name in names]
    return [path for path in found if path is not None]
