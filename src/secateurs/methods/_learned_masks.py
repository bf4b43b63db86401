"""The masks of one target as they are learned: looked at from time to time, the best and the last of them on disk.

    best.safetensors    of those within half a per cent of the target, the closest to the teacher; weights and gates
    last.safetensors    after the last step, as they were
    masks.json          of both: step, expected and realised removal, divergence

Where none came within half a per cent, the best are the last, moved to the target by one common shift.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from secateurs.arithmetic import fast
from secateurs.artefact import read_json, write, write_json
from secateurs.fold import Opening
from secateurs.job import Job
from secateurs.methods._mask_learning import MaskLearner
from secateurs.methods._open_counts import open_counts
from secateurs.processes import first
from secateurs.stages.evaluate import divergence, signals
from secateurs.stages.gates import Gated
from secateurs.target import Budget

__all__ = ["BEST", "LAST", "LearnedMasks", "move_to_target"]

logger = logging.getLogger(__name__)

BAND = 0.005
"""Masks whose expected removal is this close to the target may be taken."""

EXAMINED = 512
"""Texts on which masks are compared with the teacher, at most."""

BEST, LAST, CANDIDATE = "best.safetensors", "last.safetensors", "candidate.safetensors"


class LearnedMasks:
    """Looks, and what is kept of them.

    Args:
        folder: for the three files.
        learner: what is trained.
        budget: the target.
        job: task and texts.
        dense: the teacher.
    """

    def __init__(self, folder: Path, learner: MaskLearner, budget: Budget, job: Job, dense: nn.Module) -> None:
        self.folder, self.learner, self.budget, self.job = folder, learner, budget, job
        self.batches = job.batches[: max(1, EXAMINED // len(job.batches[0]["input_ids"]))]
        self.wanted = signals(dense, job.task, self.batches, job.device)
        path = folder / "masks.json"
        self.told: dict[str, Any] = read_json(path) if path.is_file() else {}  # of a run that was killed

    def examine(self, step: int) -> None:
        """Keep the masks as they are now, if they meet the target and none before them was closer."""
        first(lambda: self._examine(step))

    def _examine(self, step: int) -> None:
        seen = self._seen(step)
        logger.info(
            "step %d: expected to remove %.1f %%, removes %.1f %% (target %.1f %%), divergence %.4f", step,
            100 * seen["expected"], 100 * seen["realised"], 100 * self.learner.removal.target, seen["divergence"],
        )  # fmt: skip
        near = abs(seen["expected"] - self.learner.removal.target) <= BAND
        if near and seen["divergence"] < self.told.get("best", {}).get("divergence", math.inf):
            self._save(CANDIDATE)
            self._tell(best=seen)
        self._tell(last=seen)

    def finish(self) -> None:
        """The last are kept as they are, then the best: those that were, or the last, moved to the target."""
        self._save(LAST)
        if not (self.folder / CANDIDATE).is_file():
            shift = move_to_target(self.learner)
            logger.warning("no masks met the target within %.1f %%; the last were moved by %.3f", 100 * BAND, shift)
            self._save(CANDIDATE)
            self._tell(best=self._seen(self.told["last"]["step"]))
        (self.folder / CANDIDATE).rename(self.folder / BEST)  # last: without it nothing was learned

    @torch.no_grad()
    def _seen(self, step: int) -> dict[str, Any]:
        """Removals are parts of what can be removed, of parameters or milliseconds, as the target is."""
        job, gated, removal = self.job, self.learner.gated, self.learner.removal
        gated.eval()
        counts = open_counts(gated.gates, self.budget, job.structure)
        with fast(job.device):
            opened = _Opened(gated, gated.gates.opened(counts))
            apart = divergence(opened, job.task, self.batches, self.wanted, job.device)
        expected = self.learner.expected().item()
        return {"step": step, "expected": expected, "realised": removal(counts), "divergence": apart}

    def _tell(self, **seen: dict[str, Any]) -> None:
        self.told |= seen
        write_json(self.folder / "masks.json", {"target": self.learner.removal.target, **self.told})

    def _save(self, name: str) -> None:
        learner = self.learner
        parts = {"model": learner.gated.model, "gates": learner.gated.gates, "matching": learner.matching}
        whole = {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, module in parts.items()
            if module is not None
            for key, value in module.state_dict().items()
        }
        whole["hidden"] = torch.tensor(learner.gated.gates.hidden.requires_grad)
        write(self.folder / name, lambda partial: save_file(whole, partial))


class _Opened(nn.Module):
    """Gates, so far open."""

    def __init__(self, gated: Gated, opening: Opening) -> None:
        super().__init__()
        self.gated, self.far = gated, opening

    def forward(self, **inputs: Any) -> Any:
        return self.gated.opened(self.far, **inputs)


@torch.no_grad()
def move_to_target(learner: MaskLearner) -> float:
    """Add one number to every ``log_alpha``, so that the expected removal is the target; their order stays."""
    gates = learner.gated.gates
    start = [parameter.clone() for parameter in gates.parameters()]
    low, high, middle = -20.0, 20.0, 0.0  # lower removes more
    for _ in range(60):
        middle = (low + high) / 2
        for parameter, old in zip(gates.parameters(), start, strict=True):
            parameter.copy_(old + middle)
        low, high = (middle, high) if learner.expected().item() > learner.removal.target else (low, middle)
    return middle
