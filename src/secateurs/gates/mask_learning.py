"""The min-max training that CoFi and FLOP share: weights and gates minimise a loss, multipliers maximise a penalty.

    max over lambda, min over weights and gates:  loss(gates) + lambda_1 (s - t) + lambda_2 (s - t)^2

``s`` is the expected fraction of the removable cost (parameters, or milliseconds by the latency table) that the gates remove.
``t`` is the fraction that has to be removed by the current step; it rises linearly from 0. Gates and multipliers have
constant learning rates of their own, and their gradients are not clipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.gates.choices import Ascent
from secateurs.gates.fold import Opening
from secateurs.gates.gates import Gated
from secateurs.gates.layer_matching import LayerMatching
from secateurs.gates.student_loss import LossInputs, StudentLoss, TeacherOutputs
from secateurs.numerics.lagrangian import Lagrangian, warmup_target
from secateurs.structure.allocation import Allocation
from secateurs.structure.target import Budget
from secateurs.tasks.base import Batch
from secateurs.training.objective import CONSTANT_RATE, Objective
from secateurs.training.optimizer import PLAIN_SGD

__all__ = ["GatePace", "GatedStudent", "MaskLearning", "Removal"]

logger = logging.getLogger(__name__)

LOG_EVERY = 100
"""Steps between two log lines."""


@dataclass(frozen=True)
class GatePace:
    """How fast gates and multipliers move.

    Args:
        ramp: steps in which the target rises.
        gates: learning rate of the gates, the largest change of a ``log_alpha`` per step.
        multipliers: learning rate of the multipliers.
        ascent: see ``Ascent``.
        scheduled: the two rates follow the schedule of the weights; otherwise they are constant.
    """

    ramp: int
    gates: float
    multipliers: float
    ascent: Ascent
    scheduled: bool = False

    def gate_settings(self) -> dict[str, Any]:
        """Optimiser settings of the gates. Large momentum makes gates oscillate under a strong penalty: beta1 = 0.5."""
        settings = {"lr": self.gates, CONSTANT_RATE: not self.scheduled}
        return settings if self.ascent == "adam" else settings | {"betas": (0.5, 0.99)}

    def multiplier_settings(self) -> dict[str, Any]:
        """Optimiser settings of the multipliers, which are maximised: by Adam, or by SGD."""
        settings = {"lr": self.multipliers, CONSTANT_RATE: not self.scheduled, "maximize": True}
        return settings | {PLAIN_SGD: self.ascent == "gradient"}


class Removal:
    """The fraction of a removable cost that is removed: 0 = nothing, 1 = everything that can be removed.

    Args:
        budget: cost and limit.
        sizes: group name -> number of units.

    Attributes:
        target: the fraction that the budget asks for.
        start: the fraction with every gate open: 0, or less where pairs of factors are larger than the dense matrices.
    """

    def __init__(self, budget: Budget, sizes: dict[str, int]) -> None:
        self.cost, self.limit = budget.cost, budget.limit
        self.dense = float(self.cost(sizes))
        self.range = self.dense - self.cost.fixed
        self.target = (self.dense - budget.limit) / self.range
        everything = dict.fromkeys(sizes, 1)
        self.start = (self.dense - float(self.cost.expected(everything, sizes))) / self.range

    def __call__(self, counts: Allocation) -> float:
        """The fraction that an allocation removes."""
        return (self.dense - float(self.cost(counts))) / self.range

    def expected(
        self, present: dict[str, Float[Tensor, ""]], counts: dict[str, Float[Tensor, ""]]
    ) -> Float[Tensor, ""]:
        """The fraction that gates are expected to remove; differentiable in their probabilities."""
        value = (self.dense - self.cost.expected(present, counts)) / self.range
        return torch.as_tensor(value)


class GatedStudent(nn.Module):
    """The trained module: the student, its gates, the multipliers, and the map that layers are compared through.

    Args:
        gated: student and gates.
        removal: measures what the gates remove.
        matching: the map between layers; ``None`` = layers are not compared.
        layers: names of the groups of every layer; empty if layers are not compared.
        stiffness: initial value of the quadratic multiplier.
        beta: constant factor of the quadratic term.
    """

    def __init__(
        self,
        gated: Gated,
        removal: Removal,
        matching: LayerMatching | None,
        layers: Sequence[Sequence[str]],
        *,
        stiffness: float = 0.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        self.gated, self.lagrangian, self.matching = gated, Lagrangian(stiffness, beta), matching
        self.removal, self.layers = removal, layers

    def forward(
        self, inputs: Batch, teacher: TeacherOutputs | None, how: StudentLoss, target: float, step: int
    ) -> Float[Tensor, ""]:
        """Loss and penalty of one batch, for one sample of the gates."""
        self.gated.model.train(how.dropout)
        self.gated.step = step
        opening = self.gated.opening()
        given = how.inputs(self.gated.model, inputs)
        outputs = self.gated.opened(opening, **given, output_hidden_states=self.matching is not None)
        loss = how.loss(outputs, LossInputs(inputs, teacher, self.matching, self._kept(opening), step))
        return loss + self.lagrangian(self.expected(), target)

    def expected(self) -> Float[Tensor, ""]:
        """The fraction of the removable cost that the gates are expected to remove."""
        return self.removal.expected(*self.gated.gates.expected()).to(self.lagrangian.linear.device)

    def _kept(self, opening: Opening) -> list[bool]:
        present = opening.present() if self.layers else {}
        return [any(present[name] for name in names) for names in self.layers]


class MaskLearning(Objective):
    """The objective of a ``GatedStudent``.

    Args:
        student: the trained module, made by the caller, who needs it after the training.
        how: the loss of the student.
        pace: learning rates of gates and multipliers.
        examine: called with the step at ``evaluations`` evenly spread steps after the ramp, the last step among them.
        evaluations: number of these calls.
    """

    name = "pruning"

    def __init__(
        self,
        student: GatedStudent,
        how: StudentLoss,
        pace: GatePace,
        examine: Callable[[int], None],
        evaluations: int,
    ) -> None:
        self.student, self.how, self.pace = student, how, pace
        self.examine, self.evaluations = examine, evaluations

    def trained_module(self, model: nn.Module) -> GatedStudent:
        """The student that was given."""
        return self.student

    def loss(self, model: nn.Module, inputs: Batch, step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        target = self.target(step)
        return model(inputs, self.how.teacher_outputs(inputs), self.how, target, step)

    def target(self, step: int) -> float:
        """The fraction that has to be removed by this step."""
        return warmup_target(step, self.pace.ramp, self.student.removal.target, self.student.removal.start)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights by the schedule; gates and multipliers at their own rates."""
        gates = [parameter for parameter in self.student.gated.gates.parameters() if parameter.requires_grad]
        return [
            {"params": list(self.clipped_parameters(model))},
            {"params": gates, **self.pace.gate_settings()},
            {"params": list(self.student.lagrangian.parameters()), **self.pace.multiplier_settings()},
        ]

    def clipped_parameters(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The weights alone: clipping would delay gates and multipliers."""
        matching = self.student.matching
        for module in (self.student.gated.model, *([matching] if matching is not None else [])):
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Clip the gates, and examine the masks if it is time."""
        self.student.gated.gates.clamp()
        if step % LOG_EVERY == 0:
            self._log(step)
        left, every = steps - step, max(1, (steps - self.pace.ramp) // max(1, self.evaluations))
        if step >= self.pace.ramp and left % every == 0 and left < self.evaluations * every:
            self.examine(step)

    def logged_values(self) -> dict[str, float]:
        """The fraction that the gates are expected to remove."""
        return {"expected_removal": self.student.expected().item()}

    def _log(self, step: int) -> None:
        penalty = self.student.lagrangian
        logger.info(
            "step %d: expected to remove %.1f %%, to be removed by now %.1f %%; multipliers %.2f and %.1f", step,
            100 * self.student.expected().item(), 100 * self.target(step), penalty.linear.item(), penalty.quadratic.item(),
        )  # fmt: skip
