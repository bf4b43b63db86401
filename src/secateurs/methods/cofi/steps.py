"""CoFi (Xia, Zhong, Chen 2022, 2204.00408) step by step.

    fit            keep the dense model as the teacher
    train_gates    prepruning -> weights, gates and multipliers together; once per target, from the dense model
    allocate       one offset to all gates, such that the budget is met
    apply          the gates folded into the trained weights
    finetune       the same distillation without gates

``fit`` runs once, the other steps once for every target; ``allocate`` again for every correction of the contract.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import torch

from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.errors import UnsupportedModelError
from secateurs.gates.gates import Gated
from secateurs.gates.layer_matching import LayerMatching
from secateurs.gates.learned_masks import shift_to_target
from secateurs.gates.learner import GateLearner, GateSettings, freeze_embeddings, load_in_place, under
from secateurs.gates.mask_learning import GatedStudent, Removal
from secateurs.gates.student_loss import DistillationLoss, StudentObjective
from secateurs.methods.base import Fitted
from secateurs.methods.cofi.schedule import mask_schedule
from secateurs.methods.cofi.settings import CoFiSettings
from secateurs.methods.cofi.ziplm_start import ziplm_start
from secateurs.structure.allocation import Allocation
from secateurs.structure.layers import layer_paths, stacks
from secateurs.structure.mask import Mask
from secateurs.structure.target import Budget
from secateurs.training.distillation import SquareHead
from secateurs.training.objective import Objective
from secateurs.training.trainer import Training

__all__ = ["FittedCoFi", "refuse_layer_matching"]

logger = logging.getLogger(__name__)


def refuse_layer_matching(settings: CoFiSettings, context: PruneContext) -> None:
    """Refuse to match layers where they do not stand in one stack, each used once.

    Raises:
        UnsupportedModelError: layers are to be matched, and the model has two stacks, or uses a layer several times.
    """
    if settings.layer_weight and len(stacks(context.model, context.structure)) > 1:
        raise UnsupportedModelError(
            "cofi matches the layers of one stack, and this model has an encoder and a decoder; use "
            "--set layer_weight=0, or method ziplm"
        )
    depth = getattr(context.model.config, "num_hidden_layers", 0)
    if settings.layer_weight and depth > len(layer_paths(context.model, context.structure)):
        raise UnsupportedModelError(
            "cofi matches layers that can be removed one by one, and this model uses a layer several times; use "
            "--set layer_weight=0, or method ziplm"
        )


class FittedCoFi(Fitted):
    """Learns the masks of each target from the dense model.

    Args:
        settings: hyper-parameters.
        context: model, texts and task.
    """

    def __init__(self, settings: CoFiSettings, context: PruneContext) -> None:
        refuse_layer_matching(settings, context)
        self.settings, self.context = settings, context
        self.dense = copy.deepcopy(context.model)  # the teacher, and the start of every target
        self.layers = _groups_by_layer(context)
        self.stream = context.structure.stream.name if context.structure.stream else None
        self.hidden_size = _hidden_size(context)
        gates = GateSettings(coarse=settings.coarse, start=settings.gate_start, reach=settings.reach)
        self.learner = GateLearner(context, self.dense, gates)
        if settings.freeze_embeddings:
            freeze_embeddings(context.model)

    def train_gates(self, budget: Budget) -> None:
        """See ``Fitted.train_gates``."""
        if self.learner.is_trained(budget.folder):
            return
        settings, context = self.settings, self.context
        assert context.train is not None
        steps, pace = mask_schedule(settings, len(context.train), context.rows_a_step)  # pyright: ignore[reportArgumentType]
        self.learner.reset(dict(self.dense.state_dict()))
        self._preprune(context.folder / budget.folder / "prepruning")
        matching = self._matching(self.hidden_size) if settings.layer_weight else None
        gates = self.learner.new_gates(hidden=budget.cost.unit == "parameters")  # a latency table has no hidden size
        if settings.masks == "ziplm":
            start = first(lambda: ziplm_start(replace(context, model=self.dense), budget))
            start.set(gates)
            load_in_place(context.model, dict(start.weights))
        student = GatedStudent(
            Gated(context.model, context.structure, gates, seed=context.seed),
            Removal(budget, context.structure.sizes),
            matching,
            self.layers,
            stiffness=settings.stiffness,
        )
        if settings.masks == "ziplm":
            logger.info("ZipLM's masks, moved by %.3f", shift_to_target(student))
        training = Training(0.0, steps, settings.rate, context.train_batch_size)
        self.learner.train(student, self._loss(), pace, budget, training, settings.evaluations)

    def allocate(self, budget: Budget) -> Allocation:
        """See ``Fitted.allocate``."""
        return self.learner.allocate(budget)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """See ``Fitted.apply``."""
        return self.learner.apply(allocation, folder)

    def finetune(self, teacher: torch.nn.Module, mask: Mask, folder: str) -> Objective:
        """The distillation that masks were learned with, or every layer against the same layer of the teacher."""
        settings = self.settings
        if settings.finetuning_by == "twins" and settings.layer_weight and not self.stream:
            return SquareHead(teacher, self.context.task)
        matching = None
        if settings.layer_weight:
            kept = mask.units(self.stream) if self.stream else torch.arange(self.hidden_size)
            trained = under(self.learner.read(folder), "matching.")
            trained["transform.weight"] = trained["transform.weight"][:, kept.to(self.context.device)]
            matching = self._matching(len(kept))
            load_in_place(matching, trained)
        kept_layers = [any(bool(mask[name].any()) for name in names) for names in self.layers]
        return StudentObjective("recovery", replace(self._loss(), teacher=teacher), matching, kept_layers)

    def expected_sparsity(self, folder: str) -> float:
        """See ``Fitted.expected_sparsity``."""
        return self.learner.expected_sparsity(folder)

    def _preprune(self, place: Path) -> None:
        """Load another student than the teacher, and distil into it before gates are added."""
        settings, context = self.settings, self.context
        if settings.start:
            context.task.graft(context.model, settings.start)  # pyright: ignore[reportArgumentType]
        if not settings.prepruning:
            return
        matching = self._matching(self.hidden_size) if settings.layer_weight else None
        objective = StudentObjective("prepruning", self._loss(), matching, [True] * len(self.layers))
        training = Training(settings.prepruning, 0, settings.rate, context.train_batch_size)
        self.learner.train_model(objective, training, place)

    def _matching(self, width: int) -> LayerMatching:
        settings, context = self.settings, self.context
        matching = LayerMatching(width, self.hidden_size, matching=settings.matching, seed=context.seed)
        return matching.to(context.device)

    def _loss(self) -> DistillationLoss:
        settings = self.settings
        return DistillationLoss(
            self.dense, self.context.task, settings.temperature, settings.output_weight, settings.layer_weight
        )


def _groups_by_layer(context: PruneContext) -> list[list[str]]:
    """Names of the groups of every layer; an empty list for a layer without groups."""
    layers = context.structure.layers
    return [[group.name for group in layers.get(path, ())] for path in layer_paths(context.model, context.structure)]


def _hidden_size(context: PruneContext) -> int:
    """Width of the hidden states: the outputs of an output projection. The config may be out of date."""
    cut = context.structure.groups[0].output_cut
    return context.model.get_parameter(cut.parameter).shape[1 - cut.dim]
