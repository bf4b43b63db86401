"""Hidden states of the layers of a model, stack by stack, with the tokens that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["layer_states"]


def layer_states(outputs: Any, inputs: Mapping[str, Tensor]) -> list[tuple[Sequence[Tensor], Bool[Tensor, "batch _"]]]:
    """For every stack of layers, its hidden states (embeddings at index 0) and the tokens that count.

    Args:
        outputs: outputs of a model that was asked for its hidden states; an encoder-decoder has those of two stacks.
        inputs: inputs of the model.
    """
    places = (
        ("encoder_hidden_states", "attention_mask"),
        ("decoder_hidden_states", "decoder_attention_mask"),
        ("hidden_states", "attention_mask"),
    )
    found = [(outputs[name], mask) for name, mask in places if outputs.get(name) is not None]
    return [(states, inputs[mask].bool() if mask in inputs else _all_tokens(states[0])) for states, mask in found]


def _all_tokens(states: Float[Tensor, "batch tokens hidden"]) -> Bool[Tensor, "batch tokens"]:
    """The mask of inputs without padding, such as images."""
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
