"""Hidden states of the tokens that count, row by row.

Indexing with a boolean mask makes the host wait for a GPU every time; here it waits once a batch, however many layers.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["counted", "rows"]


def counted(tokens: Bool[Tensor, "batch sequence"]) -> Int[Tensor, " rows"]:
    """Positions in the flattened batch of the tokens that count."""
    return tokens.flatten().nonzero().flatten()


def rows(states: Float[Tensor, "batch sequence width"], where: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
    """States at these positions."""
    return states.flatten(0, 1).index_select(0, where)
