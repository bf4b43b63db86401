"""What runs while the clock does: a checked environment, a copy of the model placed in it, and a batch of its shape."""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypeVar

import torch
from torch import nn

from secateurs.environment import Environment
from secateurs.errors import RecipeError

__all__ = ["DTYPES", "check", "random_batch", "sequence_limit", "twin"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Module = TypeVar("Module", bound=nn.Module)


def check(environment: Environment, model: nn.Module | None = None) -> None:
    """Refuse an environment that this machine, or this model, cannot run in.

    Raises:
        RecipeError: a size below 1, an unknown dtype, a device that is not here, or a sequence longer than the model's
            positions.
    """
    for name in ("batch_size", "sequence_length", "threads"):
        if getattr(environment, name) < 1:
            raise RecipeError(f"{name} is {getattr(environment, name)}; it must be at least 1")
    if environment.dtype not in DTYPES:
        raise RecipeError(f"dtype {environment.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    _check_device(environment.device)
    limit = None if model is None else sequence_limit(model)
    if limit is not None and environment.sequence_length > limit:
        raise RecipeError(
            f"a sequence of {environment.sequence_length} tokens is too long: this model has positions for {limit}; "
            f"use a sequence length of at most {limit}"
        )


def _check_device(name: str) -> None:
    kind, _, index = name.partition(":")
    if name == "cpu":
        return
    if kind != "cuda" or not (index.isdigit() or name == "cuda"):
        raise RecipeError(f"device {name!r} is unknown; choose cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise RecipeError(f"device {name} was asked for, but torch {torch.__version__} sees no CUDA device; use cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise RecipeError(f"device {name} does not exist; this machine has {torch.cuda.device_count()} CUDA devices")


def sequence_limit(model: nn.Module) -> int | None:
    """Tokens a sequence may have, or ``None`` where the config names no limit."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    for name, module in model.named_modules():
        # Models that number positions from behind the padding index (RoBERTa) lose that many of them.
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            return min(limit, module.num_embeddings - module.padding_idx - 1)
    return limit


def twin(model: Module, device: str | None = None, dtype: torch.dtype | None = None) -> Module:
    """A copy that shares every tensor which need not change, so that surgery on it leaves ``model`` alone.

    ``shrink`` replaces parameters and never writes into them, so a pruned twin costs the memory of what it kept of
    the parameters it cut. Buffers change device but keep their dtype, as ``from_pretrained(dtype=...)`` leaves them.

    Args:
        model: a model or one of its layers.
        device: where the copy goes; ``None`` = where it is.
        dtype: of floating-point parameters; ``None`` = as they are.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = parameter.data
        moved = data.to(device=device, dtype=dtype if parameter.is_floating_point() else None)
        memo[id(parameter)] = parameter if moved is data else nn.Parameter(moved, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to(device=device)
    return copy.deepcopy(model, memo)


def random_batch(model: Any, environment: Environment, *, seed: int) -> dict[str, Any]:
    """Inputs of the environment's batch size and sequence length: random tokens, nothing padded, no cache.

    Args:
        model: tells the vocabulary and what its forward takes.
        environment: batch size, sequence length and device.
        seed: of the tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (environment.batch_size, environment.sequence_length)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(environment.device)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "use_cache" in inspect.signature(model.forward).parameters:
        batch["use_cache"] = False  # a cache would grow with every timed run
    return batch
