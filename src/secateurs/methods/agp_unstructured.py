"""AGP over single weights, the unstructured baseline of FLOP: gradual magnitude pruning by ``torch.nn.utils.prune``.

The smallest weights of every matrix are set to 0, by the cubic schedule of automated gradual pruning (Zhu and Gupta 2017),
the same part of each. No unit is cut: tensors keep their size, and the model is as large and as slow as before. It shows
what quality costs where nothing is asked of speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils import prune

from secateurs.artefact import read_json, write_json
from secateurs.cost import ParameterCost
from secateurs.factorize import matrices, rank_groups
from secateurs.inputs import input_groups
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._components import widths
from secateurs.methods._gradual import Gradual, GradualPruner
from secateurs.methods._lesson import Lesson
from secateurs.modeling_pruned import is_factored
from secateurs.numerics.gradual import gradual
from secateurs.objective import Objective
from secateurs.structure import Structure
from secateurs.target import Budget

__all__ = ["METHOD", "AGPUnstructured"]

TIMES = 100
"""Pruned at most so often: ``torch.nn.utils.prune`` remembers every time."""


@dataclass(frozen=True)
class AGPUnstructured(Gradual):
    """Gradual magnitude pruning of single weights: zeros in tensors of full size."""

    name: ClassVar[str] = "agp_unstructured"
    by_time: ClassVar[bool] = False

    def rebuilt(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def structure(self, model: nn.Module) -> Structure:
        """Every entry of the chosen matrices: inputs, or the components of pairs. None of them is cut."""
        return matrix_groups(model, self.matrices)

    def prepare(self, job: Job) -> UnstructuredPruner:
        """Nothing is shared: every target is learned from the dense model."""
        return UnstructuredPruner(self, job)


class UnstructuredPruner(GradualPruner):
    """Keeps every unit; zeros are what a target of sparsity gets."""

    how: AGPUnstructured

    def choose(self, budget: Budget) -> Mask:
        """Everything. The part that is to be 0 is kept for ``install``."""
        cost = budget.cost
        assert isinstance(cost, ParameterCost), "zeros save no time"
        write_json(self._asked(budget.folder), {"fraction": 1 - (budget.limit - cost.fixed) / cost.dense})
        return Mask.full(self.job.structure)

    def install(self, mask: Mask, folder: str) -> Mask:
        """Learn, if that has not been done, and write the zeros into the weights."""
        self.learned(mask.counts, folder).folded()
        return mask

    def learner(self) -> Sparse:
        """See ``GradualPruner``."""
        return Sparse(self.job.model, weights(self.job.structure))

    def objective(self, learner: Any, counts: dict[str, int], folder: str) -> Sparsifying:
        """See ``GradualPruner``."""
        fraction = read_json(self._asked(folder))["fraction"]
        return Sparsifying(learner, self.lesson, fraction, self.how)

    def _asked(self, folder: str) -> Any:
        return self.job.folder / folder / "zeros.json"


class Sparse(nn.Module):
    """A model some of whose weights are masked.

    Args:
        model: holds them.
        paths: of the modules.
    """

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        super().__init__()
        self.model = model
        self.modules_of = [model.get_submodule(path) for path in paths]
        for module in self.modules_of:
            prune.identity(module, "weight")

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        """The model's own outputs."""
        return self.model(**inputs)

    def prune(self, fraction: float) -> None:
        """Set the smallest to 0, until this part of every matrix is gone."""
        for module in self.modules_of:
            mask, weight = module.get_buffer("weight_mask"), module.get_parameter("weight_orig")
            more = min(mask.numel(), math.ceil(fraction * mask.numel())) - int((mask == 0).sum())
            if more > 0:
                prune.l1_unstructured(module, "weight", amount=more, importance_scores=weight.detach())

    def folded(self) -> nn.Module:
        """The model itself, with zeros for good."""
        for module in self.modules_of:
            prune.remove(module, "weight")
        return self.model


class Sparsifying(Objective):
    """Weights learn while the sparsity rises.

    Args:
        sparse: what learns; made by the caller, who needs it afterwards.
        lesson: what is learned.
        fraction: of every matrix, that is 0 in the end.
        how: the schedule.
    """

    name = "pruning"

    def __init__(self, sparse: Sparse, lesson: Lesson, fraction: float, how: Gradual) -> None:
        self.own, self.lesson, self.fraction, self.how = sparse, lesson, fraction, how

    def learner(self, model: nn.Module) -> Sparse:
        """The one that was given, as sparse as it is to begin with."""
        self.own.prune(self._now(0.0))
        return self.own

    def loss(self, model: nn.Module, inputs: dict[str, Any], step: int) -> Any:
        """See ``Objective.loss``."""
        return self.lesson.loss(model, inputs, self.own.model)

    def stepped(self, model: nn.Module, step: int, steps: int) -> None:
        """The smallest go."""
        if step % max(1, steps // TIMES) == 0 or step == steps:
            self.own.prune(self._now(step / steps))

    def _now(self, part: float) -> float:
        how = self.how
        return gradual(part, how.begin, how.end, self.fraction, how.start)


def matrix_groups(model: nn.Module, which: str) -> Structure:
    """Groups that have all the entries of the chosen matrices, both factors of a pair, and nothing else."""
    found = [is_factored(model.get_submodule(path)) for path in matrices(model, which)]
    pairs = rank_groups(model, which) if any(found) else ()
    return Structure((*widths(model, which), *pairs, *(() if all(found) else input_groups(model, which))))


def weights(structure: Structure) -> list[str]:
    """Paths of the modules whose weights are pruned."""
    return list(dict.fromkeys(cut.parameter.removesuffix(".weight") for group in structure for cut in group.cuts))


METHOD = AGPUnstructured
