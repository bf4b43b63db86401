"""``TargetContext``: what all targets of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.pipeline.kept_quality import answers_of
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.run_progress import RunProgress
from secateurs.pipeline.time_budget import TimeBudget
from secateurs.report.report import Report
from secateurs.structure.cost import ParameterCost
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget, Sparsity, Speedup, Target
from secateurs.tasks.base import Score
from secateurs.training.evaluate import record_outputs

__all__ = ["TargetContext", "evaluation_data", "record_path"]


@dataclass(frozen=True)
class TargetContext:
    """What all targets of a run share.

    Args:
        loaded: everything that the recipe names.
        table: latency table.
        dense_score: metric of the dense model; ``None`` without labelled data.
        context: what the method was given.
        fitted: the fitted method.
        teacher: the dense model, never rewritten.
        folder: the run folder.
        report: report of the run, without models.
        progress: progress of the run.
        time: the time of the run, and what was chosen to fit it; ``None`` without ``minutes``.
        start: folder of the finished model that is pruned further in a gradual run; empty = the dense model.
        kept: units of the dense model that this model has; ``None`` = all.
    """

    loaded: Loaded
    table: LatencyTable
    dense_score: Score | None
    context: PruneContext
    fitted: Fitted
    teacher: Any
    folder: Path
    report: Report
    progress: RunProgress = field(default_factory=RunProgress)
    time: TimeBudget | None = None
    start: str = ""
    kept: Mask | None = None

    @property
    def unpruned(self) -> nn.Module:
        """The unpruned model of the structure; only its shapes are used."""
        return self.teacher if self.loaded.model is self.loaded.dense else self.loaded.model

    @cached_property
    def parameters(self) -> ParameterCost:
        """Parameters as a function of kept counts."""
        return ParameterCost.of(self.unpruned, self.loaded.structure, self.teacher)

    @cached_property
    def teacher_outputs(self) -> list[Tensor]:
        """Outputs of the dense model on the texts that are reported on."""
        loaded = self.loaded
        return record_outputs(self.teacher, loaded.task, loaded.data.roles.report.batches, loaded.recipe.device)

    @cached_property
    def dense_answers_to_choose(self) -> list[Tensor]:
        """Answers of the dense model to the texts on which a speed-up is chosen."""
        return answers_of(self.loaded, self.teacher, self.loaded.data.roles.choose.batches)

    @cached_property
    def dense_answers_to_report(self) -> list[Tensor]:
        """Answers of the dense model to the texts that are reported on."""
        return answers_of(self.loaded, self.teacher, self.loaded.data.roles.report.batches)

    @cached_property
    def evaluation(self) -> Any:
        """Labelled data, with outputs of the dense model where the metric needs them."""
        return evaluation_data(self.loaded, self.teacher)

    def of_dense(self, mask: Mask) -> Mask:
        """A mask of ``context.model`` as a mask of the dense model."""
        return mask if self.kept is None else self.kept.then(mask)

    def budget(self, target: Speedup | Sparsity) -> Budget:
        """What the method must keep within for a target."""
        return target.budget(self.parameters) if isinstance(target, Sparsity) else target.budget(self.table)


def evaluation_data(loaded: Loaded, dense: Any) -> Any:
    """The evaluation split, with outputs of the dense model where the metric needs them."""
    return loaded.task.reference(dense, loaded.data.evaluation, loaded.recipe.device)


def record_path(stages: Path, target: Target) -> Path:
    """The record of a finished target."""
    return stages / f"{target.folder}.json"
