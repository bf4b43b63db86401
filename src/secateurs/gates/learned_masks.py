"""``LearnedMasks``: the masks of one target while they are learned. The best and the last ones are kept on disk.

    best.safetensors    weights and gates of the masks closest to the teacher, among those within 0.5 % of the target
    last.safetensors    weights and gates after the last step
    masks.json          step, expected and realised removal, and divergence of both

If no masks came within 0.5 %, the best ones are the last ones, shifted to the target by one common offset.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from secateurs.artifacts import read_json, write, write_json
from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.gates.fold import Opening
from secateurs.gates.gates import Gated
from secateurs.gates.mask_learning import GatedStudent
from secateurs.gates.open_counts import open_counts
from secateurs.numerics.precision import autocast_if_fast
from secateurs.structure.target import Budget
from secateurs.training.evaluate import divergence, record_outputs

__all__ = ["BEST", "LAST", "LearnedMasks", "shift_to_target"]

logger = logging.getLogger(__name__)

BAND = 0.005
"""Masks may be taken if their expected removal is this close to the target."""

BEST, LAST, CANDIDATE = "best.safetensors", "last.safetensors", "candidate.safetensors"


class LearnedMasks:
    """Evaluates masks during a training and keeps the best.

    Args:
        folder: folder of the three files.
        student: the trained module.
        budget: the target.
        context: task and texts.
        dense: the teacher.
    """

    def __init__(
        self, folder: Path, student: GatedStudent, budget: Budget, context: PruneContext, dense: nn.Module
    ) -> None:
        self.folder, self.student, self.budget, self.context = folder, student, budget, context
        self.batches = context.accept
        self.teacher_outputs = record_outputs(dense, context.task, self.batches, context.device)
        path = folder / "masks.json"
        self.written: dict[str, Any] = read_json(path) if path.is_file() else {}  # by a run that was killed

    def examine(self, step: int) -> None:
        """Evaluate the current masks; keep them if they meet the target and none before them was closer to the teacher."""
        first(lambda: self._examine(step))

    def _examine(self, step: int) -> None:
        seen = self._evaluate(step)
        logger.info(
            "step %d: expected to remove %.1f %%, removes %.1f %% (target %.1f %%), divergence %.4f", step,
            100 * seen["expected"], 100 * seen["realised"], 100 * self.student.removal.target, seen["divergence"],
        )  # fmt: skip
        near = abs(seen["expected"] - self.student.removal.target) <= BAND
        if near and seen["divergence"] < self.written.get("best", {}).get("divergence", math.inf):
            self._save(CANDIDATE)
            self._write(best=seen)
        self._write(last=seen)

    def finish(self) -> None:
        """Write the last masks as they are, then the best: those that were kept, or the last ones shifted to the target."""
        self._save(LAST)
        if not (self.folder / CANDIDATE).is_file():
            shift = shift_to_target(self.student)
            logger.warning("no masks met the target within %.1f %%; the last were moved by %.3f", 100 * BAND, shift)
            self._save(CANDIDATE)
            self._write(best=self._evaluate(self.written["last"]["step"]))
        (self.folder / CANDIDATE).rename(self.folder / BEST)  # last, since its presence says that the training is done

    @torch.no_grad()
    def _evaluate(self, step: int) -> dict[str, Any]:
        """Step, expected and realised removal (fractions of the removable cost), and divergence from the teacher."""
        context, gated, removal = self.context, self.student.gated, self.student.removal
        gated.eval()
        counts = open_counts(gated.gates, self.budget, context.structure)
        with autocast_if_fast(context.device):
            opened = _Opened(gated, gated.gates.opened(counts))
            apart = divergence(opened, context.task, self.batches, self.teacher_outputs, context.device)
        expected = self.student.expected().item()
        return {"step": step, "expected": expected, "realised": removal(counts), "divergence": apart}

    def _write(self, **seen: dict[str, Any]) -> None:
        self.written |= seen
        write_json(self.folder / "masks.json", {"target": self.student.removal.target, **self.written})

    def _save(self, name: str) -> None:
        student = self.student
        parts = {"model": student.gated.model, "gates": student.gated.gates, "matching": student.matching}
        tensors = {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, module in parts.items()
            if module is not None
            for key, value in module.state_dict().items()
        }
        tensors["hidden"] = torch.tensor(student.gated.gates.hidden.requires_grad)
        write(self.folder / name, lambda partial: save_file(tensors, partial))


class _Opened(nn.Module):
    """A gated model with fixed values of its gates."""

    def __init__(self, gated: Gated, opening: Opening) -> None:
        super().__init__()
        self.gated, self.fixed = gated, opening

    def forward(self, **inputs: Any) -> Any:
        return self.gated.opened(self.fixed, **inputs)


@torch.no_grad()
def shift_to_target(student: GatedStudent) -> float:
    """Add one offset to every ``log_alpha``, in place, such that the expected removal equals the target.

    Returns:
        The offset.
    """
    gates = student.gated.gates
    start = [parameter.clone() for parameter in gates.parameters()]
    low, high, middle = -20.0, 20.0, 0.0  # a lower offset removes more
    for _ in range(60):
        middle = (low + high) / 2
        for parameter, old in zip(gates.parameters(), start, strict=True):
            parameter.copy_(old + middle)
        low, high = (middle, high) if student.expected().item() > student.removal.target else (low, middle)
    return middle
