"""The positions of a sequence that predict a next token, and the negative log-likelihood of these tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from secateurs.tasks.data.batches import IGNORED

__all__ = ["MAX_LOGITS", "MAX_POSITIONS", "has_next", "next_token_nll", "nll_of_texts", "spread"]

MAX_POSITIONS = 64
"""Maximum number of positions per sequence at which two models are compared."""

MAX_LOGITS = 1 << 20
"""Maximum number of compared logits per sequence: with a large vocabulary, fewer positions are compared."""


def has_next(mask: Int[Tensor, "sequences positions"]) -> Bool[Tensor, "sequences positions_but_last"]:
    """Whether a position and the position after it both hold a token."""
    return mask[:, 1:].bool() & mask[:, :-1].bool()


def spread(mask: Int[Tensor, "sequences positions"], most: int) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Sequence index and position of every row of the compared outputs.

    Args:
        mask: 1 at tokens, 0 at padding.
        most: maximum number of positions per sequence.
    """
    chosen: list[Tensor] = []
    for valid in has_next(mask.cpu()):  # on a GPU, every sequence would force a synchronisation
        positions = valid.nonzero().flatten()
        if len(positions) > most:
            spaced = torch.linspace(0, len(positions) - 1, most, dtype=torch.float64).round().long()
            positions = positions[spaced]
        chosen.append(positions)
    sequences = [torch.full_like(positions, index) for index, positions in enumerate(chosen)]
    return torch.cat(sequences), torch.cat(chosen)


def next_token_nll(
    logits: Float[Tensor, "sequences positions words"],
    ids: Int[Tensor, "sequences positions"],
    mask: Int[Tensor, "sequences positions"],
) -> tuple[Float[Tensor, ""], int]:
    """Sum of the negative log-likelihoods of the next tokens, in nats, and their number.

    Args:
        logits: logits at every position.
        ids: token at every position.
        mask: 1 at tokens, 0 at padding.
    """
    sums, valid = _nll(logits, ids, mask)
    return sums.sum(), int(valid.sum())


def nll_of_texts(
    logits: Float[Tensor, "sequences positions words"],
    ids: Int[Tensor, "sequences positions"],
    mask: Int[Tensor, "sequences positions"],
) -> Float[Tensor, "sequences 2"]:
    """For every sequence the negative log-likelihood of its next tokens, in nats, and their number.

    Args:
        logits: logits at every position.
        ids: token at every position.
        mask: 1 at tokens, 0 at padding.
    """
    sums, valid = _nll(logits, ids, mask)
    return torch.stack([sums, valid.sum(-1).to(sums)], -1)


def _nll(
    logits: Float[Tensor, "sequences positions words"],
    ids: Int[Tensor, "sequences positions"],
    mask: Int[Tensor, "sequences positions"],
) -> tuple[Float[Tensor, " sequences"], Bool[Tensor, "sequences positions_but_last"]]:
    """The sum of every sequence, and which of its positions have a next token."""
    valid = has_next(mask).to(logits.device)
    targets = ids.to(logits.device)[:, 1:].masked_fill(~valid, IGNORED)
    # One sequence at a time: the softmax of a full batch over a large vocabulary would double the memory.
    sums = [
        functional.cross_entropy(logits[i, :-1].float(), targets[i], ignore_index=IGNORED, reduction="sum")
        for i in range(len(logits))
    ]
    return torch.stack(sums), valid
