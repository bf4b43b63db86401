"""What the two gradual baselines share: the length of the training, what it is trained on, and where its result is kept."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file
from torch import nn

from secateurs.artifacts import write
from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.errors import CheckpointError
from secateurs.gates.learner import freeze_embeddings
from secateurs.methods.base import Finetuning, Fitted, ForwardPasses
from secateurs.methods.baselines._even_counts import even_counts
from secateurs.methods.baselines._task_or_distillation_loss import (
    LossObjective,
    TaskOrDistillationLoss,
    TrainOn,
    check_labels,
)
from secateurs.numerics.precision import native_bfloat16
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.tasks.roles import RoleSizes
from secateurs.training.objective import Objective
from secateurs.training.trainer import Training, train

__all__ = ["GradualFitted", "GradualSettings", "PruningModule"]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class GradualSettings:
    """Hyper-parameters of pruning by the cubic schedule, little by little, while the weights are trained.

    Args:
        matrices: matrices that are pruned: ``all``, ``attention``, ``feed-forward``, or patterns of paths.
        teach: what the weights are trained on. ``labels``: the loss of the task. ``outputs``: the outputs of the dense model.
            ``auto``: the first if there are labels.
        epochs: passes over the training split.
        steps: optimiser steps in place of ``epochs``; 0 = epochs count.
        begin: fraction of the steps after which pruning begins.
        end: fraction of the steps after which the sparsity is that of the target.
        start: sparsity with which pruning begins.
        rate: peak of the learning rate of the weights, linear to 0.
        freeze_embeddings: do not train embeddings.
        finetuning: passes over the training split after shrinking.
        finetuning_steps: optimiser steps in place of ``finetuning``; 0 = passes count.
        finetuning_rate: peak of the learning rate after shrinking.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    teach: TrainOn = "auto"
    epochs: Positive = 10.0
    steps: Count = 0
    begin: float = 0.0
    end: float = 0.3
    start: Annotated[float, Field(ge=0, lt=1)] = 0.05
    rate: Positive = 1e-4
    freeze_embeddings: bool = True
    finetuning: Annotated[float, Field(ge=0)] = 0.0
    finetuning_steps: Count = 0
    finetuning_rate: Positive = 1e-4

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> GradualSettings:
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"begin and end are fractions of the steps, 0 <= begin < end <= 1, not {self.begin:g} and {self.end:g}"
            )
        return self

    @property
    def finetuning_length(self) -> Finetuning:
        """The training after shrinking."""
        return Finetuning(self.finetuning, self.finetuning_steps, self.finetuning_rate)

    def check(self, context: PruneContext) -> None:
        """See ``Method.check``: training by labels needs labels."""
        check_labels(self.teach, context)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: the method trains on the training split and uses no other texts."""
        return RoleSizes()

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: a step is three passes, and one of the teacher where there are no labels."""
        return ForwardPasses(0.0, 4.0 * (self.steps * batch if self.steps else self.epochs * rows))


class PruningModule(nn.Module, ABC):
    """A trained module that prunes the model inside it."""

    @abstractmethod
    def folded(self) -> nn.Module:
        """Write what was learned into the weights of the model, in place, remove all helpers from it, and return it."""


Learner = TypeVar("Learner", bound=PruningModule)


class GradualFitted(Fitted, Generic[Learner]):
    """The allocation follows from the budget alone. The weights are trained at that allocation.

    Args:
        settings: hyper-parameters.
        context: model, texts and task.
    """

    def __init__(self, settings: GradualSettings, context: PruneContext) -> None:
        self.settings, self.context = settings, context
        self.teacher = context.teacher or copy.deepcopy(context.model).eval()
        self.dense = {name: value.clone() for name, value in context.model.state_dict().items()}
        self.loss = TaskOrDistillationLoss(settings.teach, context, self.teacher)
        if settings.freeze_embeddings:
            freeze_embeddings(context.model)

    @abstractmethod
    def new_learner(self) -> Learner:
        """The model in its first state, inside the module that prunes it."""

    @abstractmethod
    def objective(self, learner: Learner, budget: Budget, allocation: Allocation) -> Objective:
        """The objective that trains the learner and prunes it to the allocation."""

    def allocate(self, budget: Budget) -> Allocation:
        """The same fraction of every group. Which units are kept is learned in ``train_while_pruning``."""
        return even_counts(self.context.structure, budget)

    def train_while_pruning(self, budget: Budget, allocation: Allocation) -> None:
        """See ``Fitted.train_while_pruning``."""
        context, settings = self.context, self.settings
        place = context.folder / budget.folder
        path = place / LEARNED
        if path.is_file():
            return
        assert context.collate is not None
        learner = self._dense_learner()
        training = Training(
            settings.epochs, settings.steps, settings.rate, context.train_batch_size,
            bf16=native_bfloat16(context.device), accumulate=context.accumulate, trackers=context.trackers,
            logs=context.logs(place / "pruning"),
        )  # fmt: skip
        train(
            context.model, self.objective(learner, budget, allocation), context.train, context.collate, training,
            place / "pruning", seed=context.seed, device=context.device, track=context.track,
        )  # fmt: skip
        values = {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}
        first(lambda: write(path, lambda partial: save_file(values, partial)))
        learner.folded()  # the model is a plain one again

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> LossObjective:
        """The same loss, without pruning."""
        return LossObjective("recovery", self.loss)

    def trained_learner(self, folder: str) -> Learner:
        """The learner as its training left it on disk.

        Raises:
            CheckpointError: the file cannot be read.
        """
        learner = self._dense_learner()
        path = self.context.folder / folder / LEARNED
        try:
            learner.load_state_dict(load_file(path))
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"cannot read what was learned, {path}: {reason}; delete it and use --resume"
            ) from None
        return learner

    def _dense_learner(self) -> Learner:
        self.context.model.load_state_dict(self.dense)
        return self.new_learner()


LEARNED = "learned.safetensors"
