"""The min-max loop that CoFi and FLOP share: weights and gates descend on a loss, multipliers ascend on a penalty.

    max over lambda, min over weights and gates:  loss(gates) + lambda_1 (s - t) + lambda_2 (s - t)^2

``s`` is the expected part of the removable cost (parameters, or milliseconds by the latency table) that is removed,
``t`` the part that has to go, which rises from 0 in a straight line. Gates and multipliers have learning rates of their
own, no schedule and no clipping.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.fold import Opening
from secateurs.methods._distillation import Distillation, Lesson
from secateurs.numerics.lagrangian import Lagrangian, warmed
from secateurs.objective import OWN_RATE, Objective
from secateurs.optimizer import PLAIN
from secateurs.stages.gates import Gated
from secateurs.stages.layer_matching import LayerMatching
from secateurs.target import Budget

__all__ = ["Ascent", "MaskLearner", "MaskLearning", "Pace", "Removal"]

logger = logging.getLogger(__name__)

TOLD_EVERY = 100
"""Steps between two lines of the log."""

Ascent = Literal["gradient", "adam"]
"""How multipliers climb. ``gradient``: by their rate times the gap, so they stand still where the target is met. ``adam``
(the authors): by about one rate a step however small the gap is, so they have to come all the way back."""


@dataclass(frozen=True)
class Pace:
    """How fast gates and multipliers move.

    Args:
        ramp: steps in which the target rises.
        gates: learning rate of the gates: what a ``log_alpha`` moves in a step, at most.
        multipliers: learning rate of the multipliers.
        ascent: see ``Ascent``.
        scheduled: their rates follow the schedule of the weights; else they are constant.
    """

    ramp: int
    gates: float
    multipliers: float
    ascent: Ascent
    scheduled: bool = False

    def of_gates(self) -> dict[str, Any]:
        """Settings of their optimiser. Under a stiff penalty its momentum is a dead time, so it is short."""
        settings = {"lr": self.gates, OWN_RATE: not self.scheduled}
        return settings if self.ascent == "adam" else settings | {"betas": (0.5, 0.99)}

    def of_multipliers(self) -> dict[str, Any]:
        """Settings of theirs: upwards, by SGD if only the gradient counts."""
        settings = {"lr": self.multipliers, OWN_RATE: not self.scheduled, "maximize": True}
        return settings | {PLAIN: self.ascent == "gradient"}


class Removal:
    """How much of a budget's cost is removed: 0 = nothing, 1 = all that can be.

    Args:
        budget: cost and limit.
        sizes: of the groups.
    """

    def __init__(self, budget: Budget, sizes: dict[str, int]) -> None:
        self.cost, self.limit = budget.cost, budget.limit
        self.dense = float(self.cost(sizes))
        self.range = self.dense - self.cost.fixed
        self.target = (self.dense - budget.limit) / self.range
        everything = dict.fromkeys(sizes, 1)
        self.start = (self.dense - float(self.cost.expected(everything, sizes))) / self.range
        """With every gate open: 0, or less where pairs of factors are larger than the dense matrices."""

    def __call__(self, counts: dict[str, int]) -> float:
        """Of a choice."""
        return (self.dense - float(self.cost(counts))) / self.range

    def expected(
        self, present: dict[str, Float[Tensor, ""]], counts: dict[str, Float[Tensor, ""]]
    ) -> Float[Tensor, ""]:
        """Of gates, by their probabilities; differentiable."""
        value = (self.dense - self.cost.expected(present, counts)) / self.range
        return torch.as_tensor(value)


class MaskLearner(nn.Module):
    """What is trained: the student, its gates, the multipliers, and the map that layers are compared through."""

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
        self, inputs: dict[str, Tensor], lesson: Lesson, how: Distillation, target: float, step: int
    ) -> Float[Tensor, ""]:
        """Loss and penalty of one batch, for one sample of the gates."""
        self.gated.model.eval()  # without dropout, like the teacher; the gates are noise enough
        self.gated.step = step
        opening = self.gated.opening()
        given = how.inputs(self.gated.model, inputs)
        outputs = self.gated.opened(opening, **given, output_hidden_states=self.matching is not None)
        loss = how.loss(outputs, lesson, inputs, self.matching, self._kept(opening), step)
        return loss + self.lagrangian(self.expected(), target)

    def expected(self) -> Float[Tensor, ""]:
        """The part of the removable cost that the gates are expected to remove."""
        return self.removal.expected(*self.gated.gates.expected()).to(self.lagrangian.linear.device)

    def _kept(self, opening: Opening) -> list[bool]:
        present = opening.present() if self.layers else {}
        return [any(present[name] for name in names) for names in self.layers]


class MaskLearning(Objective):
    """The objective of a ``MaskLearner``.

    Args:
        learner: see there; made by the caller, who needs it afterwards.
        how: what the student is taught.
        pace: of gates and multipliers.
        examine: called at ``looks`` steps, evenly spread over the time after the ramp, and after the last.
        looks: how often.
    """

    name = "pruning"

    def __init__(
        self,
        learner: MaskLearner,
        how: Distillation,
        pace: Pace,
        examine: Callable[[int], None],
        looks: int,
    ) -> None:
        self.own, self.how, self.pace = learner, how, pace
        self.examine, self.looks = examine, looks

    def learner(self, model: nn.Module) -> MaskLearner:
        """The one that was given."""
        return self.own

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        target = self.target(step)
        return model(inputs, self.how.lesson(inputs), self.how, target, step)

    def target(self, step: int) -> float:
        """The part that has to be gone by this step."""
        return warmed(step, self.pace.ramp, self.own.removal.target, self.own.removal.start)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights by the schedule; gates and multipliers at their own rate, the multipliers upwards."""
        gates = [parameter for parameter in self.own.gated.gates.parameters() if parameter.requires_grad]
        return [
            {"params": list(self.clipped(model))},
            {"params": gates, **self.pace.of_gates()},
            {"params": list(self.own.lagrangian.parameters()), **self.pace.of_multipliers()},
        ]

    def clipped(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The weights alone: a clipped gate or multiplier would answer late."""
        matching = self.own.matching
        for module in (self.own.gated.model, *([matching] if matching is not None else [])):
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def stepped(self, model: nn.Module, step: int, steps: int) -> None:
        """Gates stay where they can still move."""
        self.own.gated.gates.clamp()
        if step % TOLD_EVERY == 0:
            self._tell(step)
        left, every = steps - step, max(1, (steps - self.pace.ramp) // max(1, self.looks))
        if step >= self.pace.ramp and left % every == 0 and left < self.looks * every:
            self.examine(step)

    def figures(self) -> dict[str, float]:
        """The part that the gates are expected to remove."""
        return {"expected_removal": self.own.expected().item()}

    def _tell(self, step: int) -> None:
        penalty = self.own.lagrangian
        logger.info(
            "step %d: expected to remove %.1f %%, to be removed by now %.1f %%; multipliers %.2f and %.1f", step,
            100 * self.own.expected().item(), 100 * self.target(step), penalty.linear.item(), penalty.quadratic.item(),
        )  # fmt: skip
