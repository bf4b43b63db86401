"""Selects the hidden states of the tokens in a token mask.

Indexing with a boolean mask makes the host wait for the GPU at every call. These functions wait once per batch instead: the
positions are computed once and reused for every layer.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["states_at", "token_positions"]


def token_positions(tokens: Bool[Tensor, "batch sequence"]) -> Int[Tensor, " rows"]:
    """Positions of the true tokens in the flattened batch.

    Args:
        tokens: token mask; true at the tokens to select.
    """
    return tokens.flatten().nonzero().flatten()


def states_at(
    states: Float[Tensor, "batch sequence width"], positions: Int[Tensor, " rows"]
) -> Float[Tensor, "rows width"]:
    """Hidden states at the given positions, one row per position.

    Args:
        states: hidden states of a batch.
        positions: result of ``token_positions`` for the batch.
    """
    return states.flatten(0, 1).index_select(0, positions)
