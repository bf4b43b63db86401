"""A decoder with its key-value cache as one graph: a prefill is a step on an empty cache.

The graph is given tokens and the cache of the tokens before them, and gives logits and the longer cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateurs.checkpoint.refusals import first_line
from secateurs.errors import UnsupportedModelError
from secateurs.latency.traced import Traced
from secateurs.surgery.shared_copy import shared_copy

__all__ = ["is_decoder", "traced_with_cache"]


def is_decoder(model: Any) -> bool:
    """Whether a model generates text by itself, from tokens and a cache."""
    return bool(getattr(model, "can_generate", lambda: False)()) and not model.config.is_encoder_decoder


def traced_with_cache(model: Any, batch: Mapping[str, Tensor]) -> Traced:
    """Make a decoder with its cache ready to be traced.

    Args:
        model: transformers model with a language modeling head; it stays unchanged.
        batch: texts, at least two rows of the same length.

    Raises:
        UnsupportedModelError: the model cannot be taken apart into steps.
    """
    from transformers.exporters.utils import decompose_for_generation

    module = shared_copy(model, "cpu", torch.float32).eval().requires_grad_(False)
    try:
        # A mask of ones would be left out of the graph, which then could not run texts of several lengths.
        mask = torch.ones_like(batch["input_ids"])
        mask[0, 0] = 0
        inputs = {"input_ids": batch["input_ids"], "attention_mask": mask}
        parts = decompose_for_generation(module, inputs, multi_token_decode=True)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be exported with its cache: {first_line(error)}"
        ) from error
    step, inputs = parts["decode"]
    return Traced(step, dict(inputs), {}, None, dict, dynamic=True)
