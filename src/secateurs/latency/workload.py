"""Workload of a timing: checks that an environment can be used here, and a random batch of its shape."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from secateurs.errors import RecipeError
from secateurs.latency.environment import GENERATION, THROUGHPUT, Environment
from secateurs.latency.generation import as_prompt, check_generation
from secateurs.latency.runtimes import runtime
from secateurs.modeling.image_size import image_size

__all__ = ["DTYPES", "check", "random_batch", "sequence_limit"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Data type names of an ``Environment`` -> torch data types."""


def check(environment: Environment, model: nn.Module | None = None) -> None:
    """Check that this machine, and the model if one is given, can run in an environment.

    Args:
        environment: environment to check.
        model: model whose maximum sequence length is checked too.

    Raises:
        RecipeError: a size is below 1, the dtype or the regime is unknown, this machine lacks the device or the runtime, the
            sequence is longer than the model supports, or a model or a runtime is to generate that cannot.
    """
    for name in ("batch_size", "sequence_length", "threads"):
        if getattr(environment, name) < 1:
            raise RecipeError(f"{name} is {getattr(environment, name)}; it must be at least 1")
    if environment.dtype not in DTYPES:
        raise RecipeError(f"dtype {environment.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    if environment.regime not in (THROUGHPUT, GENERATION):
        raise RecipeError(f"regime {environment.regime!r} is unknown; choose {THROUGHPUT} or {GENERATION}")
    if environment.generates:
        check_generation(environment, model)
    _check_device(environment.device)
    runtime(environment.runtime).check(environment)
    limit = None if model is None else sequence_limit(model)
    if limit is not None and environment.sequence_length > limit:
        if environment.generates:
            raise RecipeError(
                f"a prompt of {environment.prompt_length} tokens and {environment.new_tokens} new ones are too long: this "
                f"model has positions for {limit}; use at most {limit} together"
            )
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
        raise RecipeError(f"device {name} was requested, but torch {torch.__version__} sees no CUDA device; use cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise RecipeError(f"device {name} does not exist; this machine has {torch.cuda.device_count()} CUDA devices")


def sequence_limit(model: nn.Module) -> int | None:
    """Maximum number of tokens per sequence, or ``None`` if the model's config sets no limit.

    Args:
        model: transformers model.
    """
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    for name, module in model.named_modules():
        # RoBERTa numbers positions from ``padding_idx + 1``, so the first positions of its embedding are unused.
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            return min(limit, module.num_embeddings - module.padding_idx - 1)
    return limit


def random_batch(model: Any, environment: Environment, *, seed: int) -> dict[str, Any]:
    """Batch of random tokens with the environment's batch size and sequence length, without padding or cache; or of images.

    In the regime ``"generation"`` it is the prompt.

    Args:
        model: transformers model; its vocabulary or image size and the parameters of its ``forward`` are used.
        environment: batch size, sequence length and device of the batch.
        seed: seed of the random tokens or pixels.

    Returns:
        ``input_ids`` and ``attention_mask``, both of shape ``(batch_size, sequence_length)``; for an encoder-decoder
        ``decoder_input_ids`` of the same shape, since both stacks are run; and ``use_cache = False`` if the model's
        ``forward`` accepts it. For a model whose main input are images, ``pixel_values`` of shape
        ``(batch_size, channels, height, width)``.

    Raises:
        RecipeError: the model takes other inputs, such as sound, or images together with texts.
    """
    generator = torch.Generator().manual_seed(seed)
    main_input = getattr(model, "main_input_name", "input_ids")
    if main_input == "pixel_values":
        images = environment.batch_size, *image_size(model.config)
        return {"pixel_values": torch.randn(images, generator=generator).to(environment.device)}
    if main_input != "input_ids" or not hasattr(model.config, "vocab_size"):
        raise RecipeError(
            f"{type(model).__name__} cannot be timed: there is no workload for its kinds of input; its structure can be "
            "inspected, and pruned in Python"
        )
    length = environment.prompt_length if environment.generates else environment.sequence_length
    shape = (environment.batch_size, length)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(environment.device)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if environment.generates:
        return as_prompt(model, batch)
    if getattr(model.config, "is_encoder_decoder", False):
        batch["decoder_input_ids"] = ids.flip(1)
    if "use_cache" in inspect.signature(model.forward).parameters:
        batch["use_cache"] = False  # a cache would grow with every timed run
    return batch
