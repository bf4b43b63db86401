"""``Method`` and ``Fitted``: the four steps of every pruning method.

    fit(context)          what all targets share: calibration, a level database, or nothing
    allocate(budget)      how many units of each group are kept
    apply(allocation)     the final weights, at full size, with zeros outside the mask
    finetune(mask)        what is minimised when the shrunk model is trained

A method that trains to find its masks does so in a step of its own: ``train_gates`` before the allocation,
``train_while_pruning`` after it. Each of the two may take hours; no other step trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import nn

from secateurs.context import PruneContext
from secateurs.methods._settings import Finetuning, ForwardPasses, OneShot
from secateurs.structure.allocation import Allocation
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Budget
from secateurs.tasks.roles import RoleSizes
from secateurs.training.distillation import SquareHead
from secateurs.training.objective import Objective

__all__ = ["Finetuning", "Fitted", "ForwardPasses", "Method", "OneShot", "OneShotFitted"]


class Method(Protocol):
    """A frozen set of hyper-parameters that can be fitted to a model."""

    name: ClassVar[str]
    trains: ClassVar[bool]
    """The method needs a training split even without fine-tuning."""
    by_parameters: ClassVar[bool]
    """The method can prune to a number of parameters (``Sparsity``)."""
    by_time: ClassVar[bool]
    """The method can prune to a time (``Speedup``): what it removes makes a model faster."""

    @property
    def finetuning_length(self) -> Finetuning:
        """The training after shrinking, where the recipe sets none."""
        ...

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The dense model, or a copy with the same outputs and other modules (pairs of factors)."""
        ...

    def structure(self, model: nn.Module) -> Structure:
        """What the method may remove from the model that ``prepare_model`` returned."""
        ...

    def check(self, context: PruneContext) -> None:
        """Refuse a model or data that the method cannot work with. It runs before the run folder exists.

        Raises:
            SecateursError: one line that says what does not fit.
        """
        ...

    def role_sizes(self, samples: int) -> RoleSizes:
        """How many texts of every role the method uses, besides those that are reported on.

        Args:
            samples: ``Recipe.calibration_samples``, the number of texts to fit.
        """
        ...

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """Estimate the work, for the dry run.

        Args:
            structure: structure of the model.
            samples: texts to fit.
            rows: rows of the training split.
            batch: training rows per optimiser step.
        """
        ...

    def fit(self, context: PruneContext) -> Fitted:
        """Do the work that all targets share."""
        ...


class Fitted(ABC):
    """A method fitted to one model and its data; serves any number of targets."""

    def train_gates(self, budget: Budget) -> None:  # noqa: B027
        """Train the masks of one target, unless they are on disk already. Methods without gates do nothing."""

    @abstractmethod
    def allocate(self, budget: Budget) -> Allocation:
        """Choose how many units of each group to keep within the budget. The same budget gets the same answer.

        The contract calls again with a corrected budget, a few per cent off, when the shrunk model misses its target.

        Raises:
            TargetUnreachable: removing every unit is not enough.
        """

    def train_while_pruning(self, budget: Budget, allocation: Allocation) -> None:  # noqa: B027
        """Train while the model is pruned to ``allocation``, unless that is on disk already. Most methods do nothing."""

    @abstractmethod
    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """Write the final weights of an allocation into ``context.model``, at full size.

        Afterwards every unit outside the returned mask contributes exactly zero, so that ``shrink`` changes no output.

        Args:
            allocation: an answer of ``allocate``, in this run or in the one it resumes.
            folder: folder of the target.
        """

    @abstractmethod
    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> Objective:
        """The objective on which the model shrunk to ``mask`` is trained, if the run trains it.

        Args:
            teacher: the dense model.
            mask: what was kept.
            folder: folder of the target.
        """

    def set_lengths(self, settings: Any) -> None:
        """Train from now on for as long as other settings of the same method say; see ``secateurs.methods._lengths.scaled``.

        Args:
            settings: the method with other lengths of its trainings.
        """
        self.settings = settings

    def expected_sparsity(self, folder: str) -> float | None:
        """The sparsity that the trained gates of a target expect; ``None`` without gates.

        A gate has a probability to be open, a unit is kept or removed: the mask removes another fraction.
        """
        return None


class OneShotFitted(Fitted):
    """A fitted method without training. Fine-tuning, if any, distils every layer: no layer was moved."""

    context: PruneContext

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> SquareHead:
        """See ``Fitted.finetune``."""
        return SquareHead(teacher, self.context.task)
