"""The hyper-parameters of CoFi and the presets of the paper. ``docs/methods/cofi.md`` lists where the default differs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from secateurs.gates.choices import REACH, Ascent, Matching
from secateurs.methods._settings import Finetuning

__all__ = ["PRESETS", "SETTINGS", "CoFiSettings"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class CoFiSettings:
    """Hyper-parameters of masks that are learned together with the weights.

    Args:
        epochs: passes over the training split while masks are learned, ``ramp`` included.
        ramp: passes in which the target rises from 0.
        steps: optimiser steps in place of ``epochs``, with the same fraction for the ramp; 0 = epochs count.
        prepruning: passes of distillation before masks are learned, for a student that is not the teacher.
        start: folder or hub id of the model that the student starts from, such as the pretrained model that the teacher was
            fine-tuned from; empty = the teacher.
        rate: learning rate of the weights, linear to 0.
        gate_rate: constant learning rate of the gates; raised if there are too few steps to close a gate with it.
        masks: masks at the start. ``open``: all open, and the target rises. ``ziplm``: ZipLM's masks and weights for the
            same target.
        gate_start: ``log_alpha`` of all gates at the start: at 4.6 a gate is fully open, at -1.6 it is closed half of the
            time.
        reach: bound on the absolute value of ``log_alpha``. At -4.6 a gate is still open 5 times in 100.
        multiplier_rate: constant learning rate of the multipliers.
        ascent: multipliers ascend by the ``gradient`` (SGD) or by ``adam`` (the authors).
        stiffness: initial value of the quadratic multiplier.
        temperature: softens the outputs that are compared.
        output_weight: weight of the divergence of the outputs.
        layer_weight: weight of the layer-wise distillation; 0 = none.
        matching: which student layer is matched with which teacher layer: ``any``, ``ordered`` or ``random`` (the authors'
            versions 3, 4 and 6).
        coarse: learn gates of whole blocks; without them only heads and neurons are removed.
        hidden: learn gates of the dimensions of the residual stream; for sparsity targets only.
        freeze_embeddings: do not train embeddings (the authors).
        finetuning: passes over the training split after shrinking.
        finetuning_by: loss of that training. ``matching``: the loss that masks were learned with (the authors). ``twins``:
            every layer against the same layer of the teacher. It is ``matching`` if dimensions are pruned or
            ``layer_weight`` is 0.
        finetuning_steps: optimiser steps in place of ``finetuning``; 0 = passes count.
        finetuning_rate: peak of the learning rate after shrinking.
        evaluations: how often masks are compared with the teacher after the ramp; the closest masks within the target are
            taken.
    """

    name: ClassVar[str] = "cofi"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    epochs: Positive = 20.0
    ramp: NotNegative = 2.0
    steps: Count = 0
    prepruning: NotNegative = 0.0
    start: str = ""
    rate: Positive = 2e-5
    gate_rate: Positive = 0.05
    masks: Literal["open", "ziplm"] = "open"
    gate_start: float = 3.0
    reach: Positive = 7.0
    multiplier_rate: Positive = 10.0
    ascent: Ascent = "gradient"
    stiffness: NotNegative = 500.0
    temperature: Positive = 2.0
    output_weight: NotNegative = 0.1
    layer_weight: NotNegative = 0.9
    matching: Matching = "ordered"
    coarse: bool = True
    hidden: bool = False
    freeze_embeddings: bool = True
    finetuning: NotNegative = 20.0
    finetuning_by: Literal["matching", "twins"] = "matching"
    finetuning_steps: Count = 0
    finetuning_rate: Positive = 2e-5
    evaluations: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> CoFiSettings:
        if self.ramp >= self.epochs:
            raise ValueError(f"ramp ({self.ramp:g} epochs) must be shorter than epochs ({self.epochs:g})")
        if abs(self.gate_start) > self.reach:
            raise ValueError(f"gate_start ({self.gate_start:g}) lies beyond reach ({self.reach:g})")
        if self.masks == "ziplm" and (self.start or self.prepruning):
            raise ValueError("masks=ziplm starts from ZipLM's weights; leave start and prepruning out")
        if self.output_weight == self.layer_weight == 0:
            raise ValueError("output_weight and layer_weight are both 0: there is nothing to learn from")
        return self

    @property
    def finetuning_length(self) -> Finetuning:
        """The training after shrinking."""
        return Finetuning(self.finetuning, self.finetuning_steps, self.finetuning_rate)


SETTINGS = CoFiSettings


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
        "evaluations": 3,
    },
}
