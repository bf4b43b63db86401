"""``GenerationResult``: what a generation is made of, in data."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

__all__ = ["GenerationResult"]

CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, config=CONFIG)
class GenerationResult:
    """The parts of a timed generation of the pruned and of the dense model, and the bytes of their key-value caches.

    Args:
        prompt_length: tokens of the prompt.
        new_tokens: steps after the prompt.
        first_token_ms: median time of the pass over the prompt of the pruned model.
        dense_first_token_ms: the same of the dense model.
        per_token_ms: median time of a step of the pruned model.
        dense_per_token_ms: the same of the dense model.
        cache_bytes: bytes of the keys and values of the prompt and of all new tokens, for the whole batch, of the pruned
            model.
        dense_cache_bytes: the same of the dense model.
        output_head_share: share of the output head in the time of a generation of the dense model, by the latency table. No
            cut removes it. ``None`` if the head was not timed.
    """

    prompt_length: int
    new_tokens: int
    first_token_ms: float
    dense_first_token_ms: float
    per_token_ms: float
    dense_per_token_ms: float
    cache_bytes: int
    dense_cache_bytes: int
    output_head_share: float | None = None
