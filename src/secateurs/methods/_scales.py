"""AGP over components: one plain trainable number each, the smallest of which are set to 0 as training goes on.

    W = P diag(m) Q

(Wang, Wohlwend, Lei 2020, their structured baseline.) ``m`` starts at 1. What was set to 0 stays there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from secateurs.fold import Opening, fold
from secateurs.mask import Mask
from secateurs.methods._lesson import Lesson
from secateurs.numerics.gradual import gradual
from secateurs.objective import OWN_RATE, Objective
from secateurs.structure import Structure

__all__ = ["GradualPruning", "Scaled"]


class Scaled(nn.Module):
    """A model whose units are multiplied by a number each.

    Args:
        model: of the structure.
        structure: every unit of its groups gets a number.
    """

    kept: Tensor

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        self.model, self.structure = model, structure
        self.sizes = [group.size for group in structure]
        where = next(model.parameters()).device
        self.scale = nn.Parameter(torch.ones(sum(self.sizes), device=where))
        self.register_buffer("kept", torch.ones(sum(self.sizes), dtype=torch.bool, device=where))
        self.left: dict[str, int] = {}
        """Units of each group after the last pruning."""

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The model's own outputs."""
        folded = fold(self.model, self.structure, self._opening(), slim=True)
        return functional_call(self.model, folded, (), inputs)

    def mask(self) -> Mask:
        """What has not been set to 0."""
        return Mask(
            {group.name: kept.cpu() for group, kept in zip(self.structure, self.kept.split(self.sizes), strict=True)}
        )

    @torch.no_grad()
    def prune(self, counts: Mapping[str, int]) -> None:
        """Set the smallest to 0, until so many are left of each group; never fewer go than are gone."""
        if dict(counts) != self.left:
            self._close(counts)
            self.left = dict(counts)
        self.scale.mul_(self.kept)

    def _close(self, counts: Mapping[str, int]) -> None:
        units = zip(self.structure, self.scale.split(self.sizes), self.kept.split(self.sizes), strict=True)
        for group, scale, kept in units:
            size = scale.abs().masked_fill(~kept, -1.0)
            kept &= torch.zeros_like(kept).index_fill_(0, size.topk(counts[group.name]).indices, True)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The model itself, with the numbers multiplied in for good."""
        for name, value in fold(self.model, self.structure, self._opening()).items():
            self.model.get_parameter(name).copy_(value)
        return self.model

    def _opening(self) -> Opening:
        """Numbers in the place of gates; what is 0 gets no gradient."""
        values = (self.scale * self.kept).split(self.sizes)
        fine: dict[str, Float[Tensor, " units"]] = {
            group.name: value for group, value in zip(self.structure, values, strict=True)
        }
        return Opening(fine, {name: self.scale.new_ones(()) for name in fine})


class GradualPruning(Objective):
    """Weights and scales learn together while the sparsity rises.

    Args:
        scaled: what learns; made by the caller, who needs it afterwards.
        lesson: what is learned.
        counts: units that are left of each group in the end.
        begin: part of the steps after which pruning begins.
        end: part of them after which it ends.
        start: sparsity with which it begins.
        rate: learning rate of the scales, constant.
    """

    name = "pruning"

    def __init__(
        self,
        scaled: Scaled,
        lesson: Lesson,
        counts: Mapping[str, int],
        *,
        begin: float,
        end: float,
        start: float,
        rate: float,
    ) -> None:
        self.own, self.lesson, self.counts = scaled, lesson, counts
        self.begin, self.end, self.start, self.rate = begin, end, start, rate

    def learner(self, model: nn.Module) -> Scaled:
        """The one that was given, as sparse as it is to begin with."""
        self.own.prune(self.left(0.0))
        return self.own

    def loss(self, model: nn.Module, inputs: dict[str, Tensor], step: int) -> Float[Tensor, ""]:
        """See ``Objective.loss``."""
        return self.lesson.loss(model, inputs, self.own.model)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights by the schedule, scales at their own rate."""
        return [
            {"params": list(self.clipped(model))},
            {"params": [self.own.scale], "lr": self.rate, OWN_RATE: True},
        ]

    def clipped(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The weights alone."""
        return (parameter for parameter in self.own.model.parameters() if parameter.requires_grad)

    def stepped(self, model: nn.Module, step: int, steps: int) -> None:
        """The smallest go."""
        self.own.prune(self.left(step / steps))

    def left(self, now: float) -> dict[str, int]:
        """Units of each group that are left after a part of the steps."""
        left = {}
        for group in self.own.structure:
            final = 1 - self.counts[group.name] / group.size
            gone = gradual(now, self.begin, self.end, final, self.start) if final > 0 else 0.0
            left[group.name] = max(self.counts[group.name], group.size - round(gone * group.size))
        return left
