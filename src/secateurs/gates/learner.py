"""``GateLearner``: trains the gates of one target, keeps the result on disk, and turns it into an allocation and weights.

CoFi, FLOP and neuron pruning each hold one; they differ in the gates, the loss, the pace and the starting weights that they
give it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.errors import CheckpointError
from secateurs.gates.choices import REACH
from secateurs.gates.gates import Gated, Gates
from secateurs.gates.learned_masks import BEST, LearnedMasks
from secateurs.gates.mask_learning import GatedStudent, GatePace, MaskLearning
from secateurs.gates.open_counts import open_counts
from secateurs.gates.student_loss import StudentLoss
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.numerics.precision import native_bfloat16
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import ParameterCost
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget
from secateurs.surgery.masked_norm import unmask_norms
from secateurs.training.objective import Objective
from secateurs.training.trainer import Training, train

__all__ = ["GateLearner", "GateSettings", "freeze_embeddings", "load_in_place", "under"]


@dataclass(frozen=True)
class GateSettings:
    """How gates are made.

    Args:
        coarse: learn coarse gates.
        start: ``log_alpha`` of all gates at the start.
        reach: bound on the absolute value of ``log_alpha``.
        distribution: distribution of every gate; ``None`` = CoFi's.
        threshold_at_half: see ``Gates``.
    """

    coarse: bool = False
    start: float = REACH
    reach: float = math.inf
    distribution: HardConcrete | None = None
    threshold_at_half: bool = True


class GateLearner:
    """Trains and reads the gates of any number of targets.

    Args:
        context: model, texts and task.
        dense: the teacher.
        gates: how gates are made.
    """

    def __init__(self, context: PruneContext, dense: nn.Module, gates: GateSettings) -> None:
        self.context, self.dense, self.settings = context, dense, gates

    def is_trained(self, folder: str) -> bool:
        """Whether the gates of a target are on disk."""
        return (self._place(folder) / BEST).is_file()

    def train(
        self, student: GatedStudent, loss: StudentLoss, pace: GatePace, budget: Budget, how: Training, evaluations: int
    ) -> None:
        """Train gates and weights to a budget; the best masks within the target, and their weights, end on disk.

        Args:
            student: the trained module.
            loss: loss of the student.
            pace: learning rates of gates and multipliers.
            budget: the target.
            how: length and learning rate of the training.
            evaluations: how often masks are compared with the teacher after the ramp.
        """
        masks = LearnedMasks(self._place(budget.folder), student, budget, self.context, self.dense)
        objective = MaskLearning(student, loss, pace, masks.examine, evaluations)
        self.train_model(objective, how, self.context.folder / budget.folder / "pruning")
        first(masks.finish)

    def train_model(self, objective: Objective, how: Training, place: Path) -> None:
        """Train the model of the context in place.

        Args:
            objective: what is minimised.
            how: length and learning rate.
            place: folder of checkpoints.
        """
        context = self.context
        assert context.collate is not None
        bf16 = native_bfloat16(context.device)
        how = replace(
            how, bf16=bf16, accumulate=context.accumulate, trackers=context.trackers, logs=context.logs(place)
        )
        train(
            context.model, objective, context.train, context.collate, how, place,
            seed=context.seed, device=context.device, track=context.track,
        )  # fmt: skip

    def allocate(self, budget: Budget) -> Allocation:
        """The units that the trained gates leave open within a budget. A corrected budget changes the threshold only."""
        gates = self.trained_gates(budget.folder)
        return gates.opened(open_counts(gates, budget, self.context.structure)).mask().counts

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """Write the trained weights into the model, with the gates folded in."""
        trained = self.read(folder)
        gates = self._gates_of(trained)
        opening = gates.opened(allocation)
        self.reset(under(trained, "model."))
        Gated(self.context.model, self.context.structure, gates).folded(opening)
        return opening.mask()

    def mask(self, allocation: Allocation, folder: str) -> Mask:
        """The units that are kept, the most open ones of each group."""
        return self.trained_gates(folder).opened(allocation).mask()

    @torch.no_grad()
    def expected_sparsity(self, folder: str) -> float:
        """The sparsity that the trained gates of a target expect."""
        cost = ParameterCost.of(self.context.model, self.context.structure, self.dense)
        return float(cost.expected_sparsity(*self.trained_gates(folder).expected()))

    def new_gates(self, *, hidden: bool) -> Gates:
        """Gates before training.

        Args:
            hidden: learn hidden gates, if the structure has a stream.
        """
        settings, context = self.settings, self.context
        return Gates(
            context.structure,
            coarse=settings.coarse,
            hidden=hidden,
            start=settings.start,
            reach=settings.reach,
            seed=context.seed,
            distribution=settings.distribution,
            threshold_at_half=settings.threshold_at_half,
        ).to(context.device)

    def trained_gates(self, folder: str) -> Gates:
        """The trained gates of a target."""
        return self._gates_of(self.read(folder))

    def reset(self, values: Mapping[str, Tensor]) -> None:
        """Undo folded gates in the model and load these values."""
        unmask_norms(self.context.model, self.context.structure)
        load_in_place(self.context.model, values)

    def read(self, folder: str) -> dict[str, Tensor]:
        """The tensors that the training of a target left on disk.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = self._place(folder) / BEST
        try:
            return load_file(path, device=str(self.context.device))
        except Exception as error:
            raise CheckpointError(f"cannot read the learned masks {path}: {error}") from None

    def _gates_of(self, trained: dict[str, Tensor]) -> Gates:
        gates = self.new_gates(hidden=bool(trained["hidden"]))
        load_in_place(gates, under(trained, "gates."))
        return gates

    def _place(self, folder: str) -> Path:
        """Beside the folder of the target, which is deleted when the target is done: trained masks are kept."""
        return self.context.folder / "learned" / folder


def freeze_embeddings(model: nn.Module) -> None:
    """Exclude the embeddings of a model from training."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def load_in_place(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into the existing tensors, which other objects may share.

    Raises:
        CheckpointError: the names differ.
    """
    own = module.state_dict()
    if own.keys() != values.keys():
        raise CheckpointError(
            f"the learned masks are of another model; they differ in {sorted(own.keys() ^ values.keys())[0]}"
        )
    for name, value in values.items():
        own[name].copy_(value)
