"""Hidden states of the layers of a model, stack by stack, with the tokens that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool
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
    return [(outputs[name], inputs[mask].bool()) for name, mask in places if outputs.get(name) is not None]
