"""Generation: a pass over a prompt, then one step for each new token, with the key-value cache.

Tokens are chosen greedily, and their number is fixed: no token ends a sequence. So two models do the same number of steps,
whatever they write.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.key_value_cache import is_cache

__all__ = ["Generated", "as_prompt", "check_generation", "generate", "tokens_in_cache"]

RunModel = Callable[[Mapping[str, Any]], Any]
"""A prepared model: a batch -> its output."""


class Generated(NamedTuple):
    """What a generation leaves.

    Args:
        tokens: chosen tokens, of shape ``(batch_size, 1 + new_tokens)``; the prompt is not among them.
        cache: key-value cache of the prompt and of all tokens but the last.
    """

    tokens: Tensor
    cache: Any


def check_generation(environment: Environment, model: Any = None) -> None:
    """Refuse what cannot generate.

    Args:
        environment: environment in the regime ``"generation"``.
        model: model that is to generate, if one is given.

    Raises:
        RecipeError: a length is below 1, or the model is not a decoder with an output head.
    """
    for name in ("prompt_length", "new_tokens"):
        if getattr(environment, name) < 1:
            raise RecipeError(f"{name} is {getattr(environment, name)}; it must be at least 1 in the regime generation")
    if model is None:
        return
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise RecipeError(
            f"{name} has an encoder and a decoder, and the regime generation is for decoders alone; use the regime throughput"
        )
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate() or "use_cache" not in _arguments(model):
        raise RecipeError(
            f"{name} does not generate: the regime generation needs a decoder with an output head and a key-value cache; "
            "use the regime throughput"
        )


def as_prompt(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as the prompt of a generation: its keys and values are kept, and only the last token is scored.

    Args:
        model: the model; the parameters of its ``forward`` are used.
        batch: ``input_ids`` and ``attention_mask``, of shape ``(batch_size, prompt_length)``.
    """
    last = {"logits_to_keep": 1} if "logits_to_keep" in _arguments(model) else {}
    return {**batch, "use_cache": True, **last}


def tokens_in_cache(environment: Environment) -> int:
    """Tokens in the cache of the step that stands for all: half of the new tokens are there.

    Steps find ``prompt_length`` to ``prompt_length + new_tokens - 1`` tokens. Their time grows linearly with that number, so
    the one in the middle takes as long as a step does on average.

    >>> tokens_in_cache(Environment(prompt_length=128, new_tokens=64))
    160
    """
    return environment.prompt_length + environment.new_tokens // 2


@torch.inference_mode()
def generate(run: RunModel, prompt: Mapping[str, Any], new_tokens: int) -> Generated:
    """Generate greedily from a prompt: one pass over it, then ``new_tokens`` steps.

    Args:
        run: prepared model.
        prompt: what ``as_prompt`` returned.
        new_tokens: number of steps.

    Raises:
        RecipeError: the model returns no key-value cache.
    """
    output = run(prompt)
    rows, length = prompt["input_ids"].shape
    attended = prompt["input_ids"].new_ones(rows, length + new_tokens)
    tokens = [output.logits[:, -1:].argmax(-1)]
    for step in range(1, new_tokens + 1):
        output = run(
            {
                "input_ids": tokens[-1],
                "attention_mask": attended[:, : length + step],
                "past_key_values": _cache_of(output),
                "use_cache": True,
            }
        )
        tokens.append(output.logits[:, -1:].argmax(-1))
    return Generated(torch.cat(tokens, 1), _cache_of(output))


def _cache_of(output: Any) -> Any:
    cache = getattr(output, "past_key_values", None)
    if not is_cache(cache):
        raise RecipeError(
            "the model returns no key-value cache: the regime generation needs a decoder; use the regime throughput"
        )
    return cache


def _arguments(model: Any) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters
