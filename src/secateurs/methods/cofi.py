"""CoFi (Xia, Zhong, Chen 2022, 2204.00408): coarse and fine masks learned together, with layer-wise distillation.

prune (weights, gates and multipliers) -> fold the gates into the weights -> mask; shrunk, it is trained once more.

A gate for every head and neuron (fine), for every attention and feed-forward block (coarse), and, where asked for, for
every hidden dimension. The target is a
sparsity (the paper) or, beyond the paper, a speed-up: then the expected milliseconds by the latency table take the
place of the expected parameters. ``docs/methods/cofi.md`` lists where this differs from the authors' code, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from secateurs.errors import RecipeError
from secateurs.families import discover
from secateurs.job import Job, Recovering
from secateurs.methods._learned import LearnedPruner
from secateurs.methods._mask_learning import Ascent
from secateurs.methods._schedule import steps_and_rate
from secateurs.methods.ziplm import ZipLM
from secateurs.stages.gates import REACH
from secateurs.stages.layer_matching import Matching
from secateurs.structure import Structure

__all__ = ["METHOD", "PRESETS", "CoFi"]


@dataclass(frozen=True)
class CoFi:
    """Masks learned together with the weights.

    Args:
        epochs: passes over the training split while masks are learned, the ramp among them.
        ramp: of those, passes in which the target rises from 0.
        steps: so many steps in place of ``epochs``, with the same part of them for the ramp; 0 = epochs count.
        prepruning: passes of distillation before masks are learned, for a student that is not the teacher.
        start: folder or hub id of the model that the student starts from, such as the pretrained one the teacher was
            fine-tuned from; empty = it starts as the teacher.
        rate: learning rate of the weights, linear to 0.
        gate_rate: learning rate of the gates, constant; raised where there are too few steps to close a gate with it.
        masks: where they start: all ``open``, and the target rises; or ``ziplm``: its masks and weights for the same target.
        gate_start: ``log_alpha`` of all gates at the start: 4.6 is wide open, at -1.6 a gate is shut half of the time.
        reach: ``log_alpha`` stays between plus and minus this. At -4.6 a gate is still open 5 times in 100.
        multiplier_rate: learning rate of the multipliers, constant.
        ascent: multipliers climb by the ``gradient``, or with ``adam``.
        stiffness: where the quadratic multiplier starts.
        temperature: softens the outputs that are compared.
        output_weight: weight of their divergence.
        layer_weight: weight of the layer-wise distillation; 0 = none.
        matching: which student layer learns from which: ``any``, ``ordered`` or ``random`` (the authors' versions 3,
            4 and 6).
        coarse: gates for whole blocks; without them, heads and neurons alone go.
        hidden: gates for the dimensions of the residual stream; for targets of sparsity, not of time.
        freeze_embeddings: leave embeddings as they are, like the authors.
        finetuning: passes over the training split after shrinking.
        finetuning_by: ``matching``: the loss that masks were learned with (the authors); ``twins``: that of recovery, every
            layer like the same layer of the teacher. Where dimensions or the layers' term are gone, it is the former.
        finetuning_steps: so many steps in their place; 0 = passes count.
        finetuning_rate: peak of their learning rate.
        looks: times the masks are compared with the teacher after the ramp; the closest within the target is taken.
    """

    name: ClassVar[str] = "cofi"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    epochs: float = 20.0
    ramp: float = 2.0
    steps: int = 0
    prepruning: float = 0.0
    start: str = ""
    rate: float = 2e-5
    gate_rate: float = 0.05
    masks: Literal["open", "ziplm"] = "open"
    gate_start: float = 3.0
    reach: float = 7.0
    multiplier_rate: float = 10.0
    ascent: Ascent = "gradient"
    stiffness: float = 500.0
    temperature: float = 2.0
    output_weight: float = 0.1
    layer_weight: float = 0.9
    matching: Matching = "ordered"
    coarse: bool = True
    hidden: bool = False
    freeze_embeddings: bool = True
    finetuning: float = 20.0
    finetuning_by: Literal["matching", "twins"] = "matching"
    finetuning_steps: int = 0
    finetuning_rate: float = 2e-5
    looks: int = 8

    def __post_init__(self) -> None:
        positive = ("epochs", "rate", "gate_rate", "reach", "multiplier_rate", "temperature", "finetuning_rate")
        for field in positive:
            if not (value := getattr(self, field)) > 0:
                raise RecipeError(f"cofi: {field} must be above 0, not {value:g}")
        counted = ("ramp", "steps", "prepruning", "stiffness", "output_weight", "layer_weight", "finetuning")
        for field in (*counted, "finetuning_steps"):
            if (value := getattr(self, field)) < 0:
                raise RecipeError(f"cofi: {field} must not be negative, not {value:g}")
        if self.ramp >= self.epochs:
            raise RecipeError(f"cofi: ramp ({self.ramp:g} epochs) must be shorter than epochs ({self.epochs:g})")
        if abs(self.gate_start) > self.reach:
            raise RecipeError(f"cofi: gate_start ({self.gate_start:g}) lies beyond reach ({self.reach:g})")
        if self.masks == "ziplm" and (self.start or self.prepruning):
            raise RecipeError("cofi: masks=ziplm starts from ZipLM's weights; leave start and prepruning out")
        if self.looks < 1:
            raise RecipeError(f"cofi: looks must be at least 1, not {self.looks}")
        if self.output_weight == self.layer_weight == 0:
            raise RecipeError("cofi: output_weight and layer_weight are both 0: there is nothing to learn from")

    @property
    def recovering(self) -> Recovering:
        """The final fine-tuning."""
        return Recovering(self.finetuning, self.finetuning_steps, self.finetuning_rate)

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """Heads, feed-forward neurons and, if they are to be pruned, hidden dimensions."""
        return discover(model, hidden=self.hidden)

    def check(self, job: Job) -> None:
        """See ``secateurs.job.Method``: enough steps, a hidden size that may go, a start that fits."""
        assert job.train is not None
        steps_and_rate(self, len(job.train), job.rows_a_step)
        if self.hidden and job.task.keeps_hidden_size:
            raise RecipeError(
                f"the outputs of {job.task.name.replace('_', '-')} are hidden states, whose size must stay; "
                "use --set hidden=false"
            )
        if self.start:
            job.task.body(job.model, self.start)

    def forwards(self, structure: Structure, samples: int, rows: int, batch: int) -> dict[str, float]:
        """See ``secateurs.job.Method``; a step is a pass of the teacher and three of the student, and some for gates."""
        read = self.steps * batch if self.steps else self.epochs * rows
        learned = 4.5 * (read + self.prepruning * rows) + self.looks * samples
        # Each target gets a ZipLM of its own; what targets share of it, the first leaves on disk for the others.
        none = {"prepare": 0.0, "target": 0.0}
        start = ZipLM(finalists=0).forwards(structure, samples, rows, batch) if self.masks == "ziplm" else none
        return {"prepare": start["prepare"], "target": learned + start["target"]}

    def prepare(self, job: Job) -> LearnedPruner:
        """Nothing is shared: every target is learned from the dense model."""
        return LearnedPruner(self, job)


METHOD = CoFi

_PAPER: dict[str, Any] = {
    "gate_rate": 0.01,
    "gate_start": REACH,
    "reach": REACH,
    "multiplier_rate": 0.01,
    "ascent": "adam",
    "stiffness": 0.0,
    "matching": "any",
    "hidden": True,
}
_SMALL: dict[str, Any] = {**_PAPER, "epochs": 100.0, "ramp": 20.0, "prepruning": 4.0}
_LARGE: dict[str, Any] = {**_PAPER, "epochs": 20.0, "ramp": 2.0, "prepruning": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    # CoLA, STS-B, MRPC, RTE in the paper: a few thousand rows.
    "paper-small": {**_SMALL, "rate": 2e-5, "finetuning": 20.0, "finetuning_rate": 2e-5},
    # MNLI, QNLI, SST-2, QQP: tens of thousands of rows and more.
    "paper-large": {**_LARGE, "rate": 2e-5, "finetuning": 20.0, "finetuning_rate": 2e-5},
    "paper-squad": {**_LARGE, "rate": 3e-5, "finetuning": 20.0, "finetuning_rate": 3e-5},
    # Half an hour at most for a small encoder on two cores.
    "quick": {
        "steps": 1200,
        "epochs": 3.0,
        "ramp": 1.0,
        "rate": 1e-4,
        "finetuning_steps": 1200,
        "finetuning_rate": 1e-4,
        "looks": 3,
    },
}
