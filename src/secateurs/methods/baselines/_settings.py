"""The hyper-parameters of the baselines. Without torch, so that a recipe is checked before torch is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from secateurs.methods._settings import Finetuning, ForwardPasses, OneShot, TrainOn
from secateurs.methods.flop.settings import PRESETS as FLOP_PRESETS
from secateurs.methods.flop.settings import GateTrainingSettings
from secateurs.tasks.roles import RoleSizes

if TYPE_CHECKING:
    from secateurs.context import PruneContext
    from secateurs.structure.structure import Structure

__all__ = [
    "PRESETS",
    "SETTINGS",
    "AGPSettings",
    "AGPUnstructuredSettings",
    "FACSettings",
    "GradualSettings",
    "MagnitudeSettings",
    "NeuronPruningSettings",
    "RandomUnitsSettings",
    "UniformSettings",
]

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
        from secateurs.methods._labels import check_labels  # imports torch

        check_labels(self.teach, context)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: the method trains on the training split and uses no other texts."""
        return RoleSizes()

    def forward_passes(self, structure: Structure, samples: int, rows: int, batch: int) -> ForwardPasses:
        """See ``Method.forward_passes``: a step is three passes, and one of the teacher where there are no labels."""
        return ForwardPasses(per_build=4.0 * (self.steps * batch if self.steps else self.epochs * rows))


@dataclass(frozen=True)
class AGPSettings(GradualSettings):
    """Hyper-parameters of gradual magnitude pruning of ranks.

    Args:
        scale_rate: constant learning rate of the numbers that multiply components.
    """

    name: ClassVar[str] = "agp"

    scale_rate: Annotated[float, Field(gt=0)] = 1e-3


@dataclass(frozen=True)
class AGPUnstructuredSettings(GradualSettings):
    """Hyper-parameters of gradual magnitude pruning of single weights."""

    name: ClassVar[str] = "agp_unstructured"
    by_time: ClassVar[bool] = False


@dataclass(frozen=True)
class FACSettings:
    """A fixed rank for every matrix, and training.

    Args:
        matrices: matrices that are factorised: ``all``, ``attention``, ``feed-forward``, or patterns of paths.
        init: factors at the start. ``svd``: the strongest components of the model. ``scratch``: random; the model gives its
            shape only.
        teach: what the factors are trained on. ``labels``: the loss of the task. ``outputs``: the outputs of the dense model.
            ``auto``: the first if there are labels.
        epochs: passes over the training split.
        steps: optimiser steps in place of ``epochs``; 0 = epochs count.
        rate: peak of the learning rate, linear to 0.
        freeze_embeddings: do not train embeddings, unless they are random.
    """

    name: ClassVar[str] = "fac"
    trains: ClassVar[bool] = True
    by_parameters: ClassVar[bool] = True
    by_time: ClassVar[bool] = True

    matrices: str = "all"
    init: Literal["svd", "scratch"] = "svd"
    teach: TrainOn = "auto"
    epochs: Annotated[float, Field(gt=0)] = 10.0
    steps: Annotated[int, Field(ge=0)] = 0
    rate: Annotated[float, Field(gt=0)] = 1e-4
    freeze_embeddings: bool = True

    @property
    def finetuning_length(self) -> Finetuning:
        """All of the training: it comes after shrinking."""
        return Finetuning(self.epochs, self.steps, self.rate)

    def check(self, context: PruneContext) -> None:
        """See ``Method.check``: training by labels needs labels."""
        from secateurs.methods._labels import check_labels  # imports torch

        check_labels(self.teach, context)

    def role_sizes(self, samples: int) -> RoleSizes:
        """See ``Method.role_sizes``: the method trains on the training split and uses no other texts."""
        return RoleSizes()


@dataclass(frozen=True)
class NeuronPruningSettings(GateTrainingSettings):
    """Hyper-parameters of gates on inputs: those of FLOP, without those of factors."""

    name: ClassVar[str] = "neuron_pruning"


@dataclass(frozen=True)
class UniformSettings(OneShot):
    """A uniform allocation has no hyper-parameters."""

    name: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class MagnitudeSettings(OneShot):
    """Magnitude pruning has no hyper-parameters."""

    name: ClassVar[str] = "magnitude"


@dataclass(frozen=True)
class RandomUnitsSettings(OneShot):
    """Random pruning has no hyper-parameters."""

    name: ClassVar[str] = "random_units"


SETTINGS: dict[str, Any] = {
    settings.name: settings
    for settings in (
        AGPSettings,
        AGPUnstructuredSettings,
        FACSettings,
        MagnitudeSettings,
        NeuronPruningSettings,
        RandomUnitsSettings,
        UniformSettings,
    )
}
"""Name of a baseline -> class of its settings."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"neuron_pruning": {"quick": FLOP_PRESETS["quick"]}}
"""Name of a baseline -> its presets."""
