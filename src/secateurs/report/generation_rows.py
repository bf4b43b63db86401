"""What the page, the card and the terminal say about a generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateurs.report.formatting import ms, percent, size
from secateurs.report.generation import GenerationResult
from secateurs.report.values import ModelResult

__all__ = ["generation_rows", "output_head", "timed_unit", "what_is_added"]


def generation_rows(result: GenerationResult) -> dict[str, tuple[str, str]]:
    """Quantity -> its value for the pruned and for the dense model."""
    return {
        "time to first token": (ms(result.first_token_ms), ms(result.dense_first_token_ms)),
        "time per token": (ms(result.per_token_ms), ms(result.dense_per_token_ms)),
        "key-value cache": (size(result.cache_bytes), size(result.dense_cache_bytes)),
    }


def output_head(models: Sequence[ModelResult]) -> str:
    """A sentence about the fixed cost of the output head; empty if it was not timed."""
    shares = [model.generation.output_head_share for model in models if model.generation]
    if not shares or shares[0] is None:
        return ""
    return f"The output head takes {percent(shares[0])} of the time of the dense model; no cut removes it."


def timed_unit(environment: Mapping[str, Any]) -> str:
    """What the times of a run are the times of: ``one forward pass``, or a generation.

    Args:
        environment: ``Environment.to_dict()``.
    """
    if environment.get("regime") != "generation":
        return "one forward pass"
    return f"a generation (a prompt of {environment['prompt_length']} tokens, then {environment['new_tokens']} steps)"


def what_is_added(table: Mapping[str, Any]) -> str:
    """A sentence about the two tables of which the table of a generation is the sum; empty for other tables.

    Args:
        table: ``LatencyTable.to_dict()``.
    """
    parts = table.get("parts")
    if not parts:
        return ""
    first, step = parts["first_token"], parts["per_token"]
    return (
        f"It is the sum of two tables: the pass over the prompt takes {ms(first['dense_ms'])}, of which "
        f"{ms(first['overhead_ms'])} are overhead, and each step {ms(step['dense_ms'])}, of which {ms(step['overhead_ms'])} "
        "are overhead."
    )
