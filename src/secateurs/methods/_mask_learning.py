"""The min-max loop that CoFi and FLOP share: weights and gates descend on a loss, multipliers ascend on a penalty.

    max over lambda, min over weights and gates:  loss(gates) + lambda_1 (s - t) + lambda_2 (s - t)^2

``s`` is the expected part of the removable cost (parameters, or milliseconds by the latency table) that is removed,
``t`` the part that has to go, which rises from 0 in a straight line. Gates and multipliers have learning rates of their
own, no schedule and no clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.methods._distillation import Distillation, Lesson
from secateurs.numerics.lagrangian import Lagrangian, warmed
from secateurs.objective import OWN_RATE, Objective
from secateurs.stages.gates import Gated, Opening
from secateurs.stages.layer_matching import LayerMatching
from secateurs.target import Budget
from secateurs.tasks import model_inputs

__all__ = ["MaskLearner", "MaskLearning", "Removal"]


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
        self, gated: Gated, removal: Removal, matching: LayerMatching | None, layers: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self.gated, self.lagrangian, self.matching = gated, Lagrangian(), matching
        self.removal, self.layers = removal, layers

    def forward(
        self, inputs: dict[str, Tensor], lesson: Lesson, how: Distillation, target: float, step: int
    ) -> Float[Tensor, ""]:
        """Loss and penalty of one batch, for one sample of the gates."""
        self.gated.model.eval()  # without dropout, like the teacher; the gates are noise enough
        self.gated.step = step
        opening = self.gated.opening()
        outputs = self.gated.opened(opening, **model_inputs(inputs), output_hidden_states=self.matching is not None)
        loss = how.loss(outputs, lesson, inputs, self.matching, self._kept(opening), step)
        return loss + self.lagrangian(self.expected(), target)

    def expected(self) -> Float[Tensor, ""]:
        """The part of the removable cost that the gates are expected to remove."""
        return self.removal.expected(*self.gated.gates.expected())

    def _kept(self, opening: Opening) -> list[bool]:
        mask = opening.mask()
        return [any(bool(mask[name].any()) for name in names) for names in self.layers]


class MaskLearning(Objective):
    """The objective of a ``MaskLearner``.

    Args:
        learner: see there; made by the caller, who needs it afterwards.
        how: what the student is taught.
        ramp: steps in which the target rises.
        rate: learning rate of gates and multipliers.
        examine: called at ``looks`` steps, evenly spread over the time after the ramp, and after the last.
        looks: how often.
    """

    name = "pruning"

    def __init__(
        self,
        learner: MaskLearner,
        how: Distillation,
        ramp: int,
        rate: float,
        examine: Callable[[int], None],
        looks: int,
    ) -> None:
        self.own, self.how, self.ramp, self.rate = learner, how, ramp, rate
        self.examine, self.looks = examine, looks

    def learner(self, model: nn.Module) -> MaskLearner:
        """The one that was given."""
        return self.own

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        target = warmed(step, self.ramp, self.own.removal.target)
        return model(inputs, self.how.lesson(inputs), self.how, target, step)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights by the schedule; gates and multipliers at their own rate, the multipliers upwards."""
        own = {"lr": self.rate, OWN_RATE: True}
        gates = [parameter for parameter in self.own.gated.gates.parameters() if parameter.requires_grad]
        return [
            {"params": list(self.clipped(model))},
            {"params": gates, **own},
            {"params": list(self.own.lagrangian.parameters()), "maximize": True, **own},
        ]

    def clipped(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The weights alone: a clipped gate or multiplier would answer late."""
        matching = self.own.matching
        for module in (self.own.gated.model, *([matching] if matching is not None else [])):
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def stepped(self, model: nn.Module, step: int, steps: int) -> None:
        """Gates stay where they can still move."""
        self.own.gated.gates.clamp()
        left, every = steps - step, max(1, (steps - self.ramp) // max(1, self.looks))
        if step >= self.ramp and left % every == 0:
            self.examine(step)

    def figures(self) -> dict[str, float]:
        """The part that the gates are expected to remove."""
        return {"expected_removal": self.own.expected().item()}
