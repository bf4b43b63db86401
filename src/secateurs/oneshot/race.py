"""``Race``: compares allocations by the divergence of real models, in laps, each on more texts and with fewer allocations.

All allocations run the first lap. Those that are clearly behind the leader leave, and the best of the others run the last
lap. Whether an allocation is clearly behind is a matter of its differences from the leader, text by text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from secateurs.context import PruneContext
from secateurs.oneshot.batch_rows import divided
from secateurs.oneshot.candidates import CandidateModel, DivergenceObjective
from secateurs.structure.allocation import Allocation
from secateurs.tasks.base import Batch, main_input

__all__ = ["Race"]

PARTS = 6
"""Parts of every batch. The first lap runs on one of them, the second on another one, the last on all others."""

DIVIDED_FROM = 96
"""Texts from which batches are divided between the laps: a part of fewer texts tells too little."""

FINALISTS = 2
"""Allocations that run the last lap."""

CLEARLY = 2.0
"""Standard errors of its differences from the leader by which an allocation is clearly behind."""


class Race:
    """Compares allocations on texts that proposed none of them.

    Args:
        candidates: the live model, which is dense while this object is made.
        context: task, model and device.
        batches: texts.
    """

    def __init__(self, candidates: CandidateModel, context: PruneContext, batches: Sequence[Batch]) -> None:
        self.candidates = candidates
        enough = sum(len(main_input(batch)) for batch in batches) >= DIVIDED_FROM
        parts = [part for batch in batches for part in (divided(batch, PARTS) if enough else [batch])]
        of_lap = [min(index % PARTS, 2) for index in range(len(parts))]
        laps = [[part for part, own in zip(parts, of_lap, strict=True) if own == lap] for lap in range(3)]
        # The proposals differ from the dense model from the first layers on, so no hidden states are kept.
        self.laps = [DivergenceObjective(candidates, context, lap, memory_bytes=0) for lap in laps if lap]

    def lead(self, one: Allocation, other: Allocation) -> float:
        """By what factor the divergence of ``other`` is larger than that of ``one``, on the texts of the first two laps."""
        return float(self._rows(other, 2).mean() / self._rows(one, 2).mean().clamp_min(torch.finfo(torch.float32).tiny))

    def __call__(self, proposals: Sequence[Allocation]) -> tuple[Allocation, float]:
        """The best proposal, and its mean divergence on the texts that it was run on."""
        self.candidates.prepare(proposals)
        left, leader = list(proposals), torch.empty(0)
        for lap in range(1, len(self.laps) + 1):
            if 1 < lap == len(self.laps):
                left = left[:FINALISTS]
            left.sort(key=lambda one, laps=lap: float(self._rows(one, laps).mean()))
            leader = self._rows(left[0], lap)
            left = [left[0], *(one for one in left[1:] if not clearly_positive(self._rows(one, lap) - leader))]
            if len(left) == 1:
                break
        return left[0], float(leader.mean())

    def _rows(self, proposal: Allocation, laps: int) -> Float[Tensor, " rows"]:
        """The divergence on every text of the first laps; remembered."""
        return torch.cat([lap(proposal) for lap in self.laps[:laps]])


def clearly_positive(differences: Float[Tensor, " rows"]) -> bool:
    """Whether the mean of these differences is above 0 by more than ``CLEARLY`` of its standard errors."""
    if len(differences) < 2:
        return False
    error = float(differences.std()) / len(differences) ** 0.5
    return float(differences.mean()) > CLEARLY * error
