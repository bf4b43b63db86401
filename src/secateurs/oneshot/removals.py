"""Removals: what it costs to remove a group as a whole, measured, and responses that agree with it.

A response is of first order (``secateurs.oneshot.responses``). It holds for small changes and misses what only a whole
removal does: without the attention of the last layer of a classifier, the token that is read sees no other token, and the
divergence is a hundred times the price. A removal that a proposal comes near is therefore run once, alone, on a few texts.
With ``a_k`` the price of level ``k``, ``a_0`` that of the removal and ``m`` the measured divergence, the responses to a level
are multiplied by

    1 + (f - 1) a_k / a_0,      f = max(1, sqrt(m / a_0)):

the price of the removal becomes ``m``, and small changes keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.oneshot.candidates import CandidateModel, DivergenceObjective
from secateurs.tasks.base import Batch, main_input

__all__ = ["PROBED_TEXTS", "measured_removals", "scaled"]

PROBED_TEXTS = 64
"""Texts on which removals are run, at least; batches are not divided. The price needs no more than its order of magnitude."""

_STATES = 4e8
"""Bytes for the hidden states of these texts, from which the layers before the removed group are skipped."""


def measured_removals(
    candidates: CandidateModel, context: PruneContext, batches: Sequence[Batch], names: Iterable[str]
) -> dict[str, float]:
    """The mean divergence of the model without one group, for each of these groups.

    Args:
        candidates: the live model; left dense.
        context: task, model and device.
        batches: texts, of which the first are used.
        names: groups.
    """
    chosen: list[Batch] = []
    for batch in batches:
        if sum(len(main_input(one)) for one in chosen) >= PROBED_TEXTS:
            break
        chosen.append(batch)
    sizes = candidates.stitch.structure.sizes
    objective = DivergenceObjective(candidates, context, chosen, memory_bytes=_STATES)
    measured = {
        name: float(objective({**sizes, name: 0}).mean()) for name in context.track(list(names), "measure removals")
    }
    candidates.apply(sizes)
    return measured


def scaled(
    responses: Float[Tensor, "samples options"], removal: int, measured: float
) -> Float[Tensor, "samples options"]:
    """Responses to the levels of a group that price its removal as it was measured; see above.

    Args:
        responses: responses of first order.
        removal: index of the option that keeps nothing.
        measured: mean divergence of the removal.
    """
    prices = responses.double().square().mean(0) / 2
    whole = prices[removal].clamp_min(torch.finfo(torch.float64).tiny)
    factor = (measured / whole).sqrt().clamp_min(1.0)
    return responses.double() * (1 + (factor - 1) * (prices / whole).clamp(max=1.0))
