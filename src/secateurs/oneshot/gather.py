"""``gather``: regression sums over all batches of a layer walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from secateurs.numerics.regression import RegressionSums
from secateurs.oneshot.walk_state import WalkState

__all__ = ["gather"]


def gather(
    states: Sequence[WalkState],
    look: Callable[[WalkState], tuple[Tensor, Tensor]],
    tokens: str,
    weights_of: str | None = None,
) -> RegressionSums:
    """Sums over all batches and the tokens of one mask.

    Args:
        states: the batches.
        look: inputs and targets of a batch, a row for every token.
        tokens: the mask (``Group.tokens``).
        weights_of: name of the group by whose weights the tokens count; ``None`` = all alike.
    """
    sums = RegressionSums()
    for state in states:
        x, t = (value.flatten(0, -2) for value in look(state))
        weights = None if weights_of is None else state.weights.get(weights_of)
        mask = state.tokens.get(tokens)
        # The rows of a pooled vector are texts, to which no mask of tokens applies. Several uses of a layer have one mask.
        uses = len(x) // mask.numel() if mask is not None and len(x) % mask.numel() == 0 else 0
        counted = mask.flatten().repeat(uses) if mask is not None and uses else None
        sums.add(x, t, counted, None if weights is None else weights.flatten())
    sums.flush()
    return sums
