"""The hyper-parameters of FLOP and the preset of the paper. ``docs/methods/flop.md`` lists where the default differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from secateurs.gates.choices import EXAMINED_TEXTS, Ascent
from secateurs.methods._settings import Finetuning, ForwardPasses
from secateurs.tasks.roles import RoleSizes

if TYPE_CHECKING:
    from secateurs.context import PruneContext
    from secateurs.structure.structure import Structure

__all__ = ["PRESETS", "SETTINGS", "FLOPSettings", "GateTrainingSettings"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class GateTrainingSettings:
    """Hyper-parameters of gates that are trained together with the weights: FLOP's and those of neuron pruning.

    Args:
        matrices: matrices that are pruned: ``all``, ``attention``, ``feed-forward``, or patterns of paths, separated by
            commas.
        teach: what the student is trained on. ``outputs``: the outputs of the dense model. ``labels``: the loss of the task
            (the paper).
        temperature: softens the outputs that are compared.
        drop: fraction of a component that its gate removes at the start: ``log_alpha = log((1 - drop) / drop)``.
        keep: which components are kept. ``open``: those with an open probability above 1/2, after one common offset that
            meets the target. ``expected``: for each pair the expected number of open ones (the authors).
        prepruning: passes over the training split before gates are added.
        epochs: passes while gates are trained, ``ramp`` included.
        ramp: passes in which the target rises; at least 50 steps, unless that is more than half of the steps.
        steps: optimiser steps in place of ``epochs``, with the same fraction for the ramp; 0 = epochs count.
        rate: peak of the learning rate of the weights.
        schedule: schedule of the learning rates. ``linear``: to 0; those of gates and multipliers are constant. ``noam``: all
            of them.
        warmup: warm-up, as a fraction of the steps.
        clip: norm to which the gradients of the weights are clipped.
        gate_rate: learning rate of the gates; raised if the ramp is too short to close them with it.
        multiplier_rate: learning rate of the multipliers.
        ascent: multipliers ascend by the ``gradient`` (SGD) or by ``adam`` (the authors).
        stiffness: initial value of the quadratic multiplier.
        beta: constant factor of the quadratic term.
        freeze_embeddings: do not train embeddings.
        finetuning: passes after shrinking, with the same loss.
        finetuning_steps: optimiser steps in place of ``finetuning``; 0 = passes count.
        finetuning_rate: peak of the learning rate after shrinking.
        evaluations: how often masks are compared with the dense model after the ramp; the closest masks within the target are
            taken.
        rewind: keep only the ranks that were learned. Weights return to their start, with the strongest components of each
            matrix (neuron pruning: with the kept inputs), and are trained without gates in ``finetuning``.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    teach: Literal["outputs", "labels"] = "outputs"
    temperature: Positive = 2.0
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.05
    keep: Literal["open", "expected"] = "open"
    prepruning: NotNegative = 0.0
    epochs: Positive = 4.0
    ramp: NotNegative = 0.5
    steps: Count = 0
    rate: Positive = 1e-4
    schedule: Literal["linear", "noam"] = "linear"
    warmup: NotNegative = 0.05
    clip: Positive = 1.0
    gate_rate: Positive = 0.05
    multiplier_rate: Positive = 10.0
    ascent: Ascent = "gradient"
    stiffness: NotNegative = 500.0
    beta: Positive = 1.0
    freeze_embeddings: bool = True
    finetuning: NotNegative = 2.0
    finetuning_steps: Count = 0
    finetuning_rate: Positive = 1e-4
    evaluations: Annotated[int, Field(ge=1)] = 4
    rewind: bool = False

    @model_validator(mode="after")
    def _ramp_fits(self) -> GateTrainingSettings:
        if self.ramp >= self.epochs:
            raise ValueError(f"ramp ({self.ramp:g} epochs) must be shorter than epochs ({self.epochs:g})")
        return self

    @property
    def finetuning_length(self) -> Finetuning:
        """The training after shrinking."""
        return Finetuning(self.finetuning, self.finetuning_steps, self.finetuning_rate)

    def check(self, context: PruneContext) -> None:
        """See ``Method.check``: training by labels needs labels, and a loss."""
        from secateurs.methods._labels import check_labels  # imports torch

        check_labels(self.teach, context)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: masks are compared during the training."""
        return RoleSizes(accept=min(samples, EXAMINED_TEXTS))

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``; at full rank a step of the student takes half as long again as a dense one."""
        read = self.steps * batch if self.steps else self.epochs * rows
        step = 5.0 if self.teach == "outputs" else 4.0
        return ForwardPasses(0.0, step * (read + self.prepruning * rows) + self.evaluations * samples)


@dataclass(frozen=True)
class FLOPSettings(GateTrainingSettings):
    """Hyper-parameters of ranks that are learned together with the weights; most fields are ``GateTrainingSettings``'.

    Args:
        init: factors at the start. ``aware``: the best approximation of each matrix on the calibration texts. ``svd``: of the
            matrix alone (the authors). ``scratch``: random factors of the break-even rank, which need ``prepruning``.
        rank: components at the start; 0 = all.
    """

    name: ClassVar[str] = "flop"

    init: Literal["aware", "svd", "scratch"] = "aware"
    rank: Count = 0

    @model_validator(mode="after")
    def _scratch_is_trained(self) -> FLOPSettings:
        if self.init == "scratch" and self.rewind:
            raise ValueError("random factors cannot be rewound to; use init=aware or svd, or no rewind")
        if self.init == "scratch" and not self.prepruning:
            raise ValueError("random factors are untrained; with init=scratch give prepruning, in epochs")
        return self


SETTINGS = FLOPSettings

PRESETS: dict[str, dict[str, Any]] = {
    # enwik8 with an SRU, batches of 64 x 256 characters: Noam's schedule with c = 2 (3 for gates and multipliers),
    # d = 3056, w = 16,000 has these peaks; 64,000 steps of ramp are 11.6 passes.
    "paper": {
        "init": "svd",
        "teach": "labels",
        "drop": 0.5,
        "keep": "expected",
        "epochs": 100.0,
        "ramp": 11.6,
        "rate": 2.9e-4,
        "schedule": "noam",
        "warmup": 0.03,
        "clip": 0.3,
        "gate_rate": 4.3e-4,
        "multiplier_rate": 4.3e-4,
        "ascent": "adam",
        "stiffness": 0.0,
        "freeze_embeddings": False,
        "finetuning": 0.0,
        "evaluations": 90,
    },
    # Half an hour for a small encoder on two cores.
    "quick": {"steps": 600, "epochs": 3.0, "ramp": 0.5, "finetuning_steps": 300, "evaluations": 3},
}
