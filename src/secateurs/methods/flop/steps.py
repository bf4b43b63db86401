"""FLOP (Wang, Wohlwend, Lei 2020, 1910.04732) step by step.

    fit            factors of every matrix, W = P Q, for the calibration texts
    train_gates    prepruning -> weights, gates of components and multipliers together; once per target, from the same factors
    allocate       one offset to all gates, such that the budget is met
    apply          the gates folded into P; with ``rewind`` the factors of the start
    finetune       the same loss without gates

The steps serve any structure of components, the inputs of plain matrices (neuron pruning) included.
"""

from __future__ import annotations

import logging
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.context import PruneContext
from secateurs.gates.gates import Gated
from secateurs.gates.learner import GateLearner, GateSettings, freeze_embeddings
from secateurs.gates.mask_learning import GatedStudent, GatePace, Removal
from secateurs.gates.student_loss import DistillationLoss, LabelLoss, StudentLoss, StudentObjective
from secateurs.methods.base import Fitted
from secateurs.methods.flop.settings import GateTrainingSettings
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.oneshot.calibrate import calibrate
from secateurs.structure.allocation import Allocation
from secateurs.structure.cut import Cut, Kind
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Group, Structure
from secateurs.structure.target import Budget
from secateurs.surgery.factorize import matrices, refit
from secateurs.surgery.shrink import zero_masked
from secateurs.training.trainer import Training

__all__ = ["FittedFLOP", "fit_factors", "pair_input_moments"]

logger = logging.getLogger(__name__)

TRAVEL = 15.0
"""Change of ``log_alpha`` that a gate must be able to make while the target rises. Closing a gate takes 8. If there is time
for that alone, the multipliers rise too far, more is removed than asked for, and half of the steps train a broken model."""

FASTEST = 0.3
"""Highest learning rate that is chosen for the gates. The ramp is long enough for it, if that leaves half of the steps."""


class FittedFLOP(Fitted):
    """Learns the gates of each target from the same weights.

    Args:
        settings: hyper-parameters.
        context: its model is ready for gates, its teacher is the dense model.
    """

    def __init__(self, settings: GateTrainingSettings, context: PruneContext) -> None:
        assert context.teacher is not None
        self.settings, self.context = settings, context
        self.dense = context.teacher
        self.start = {name: value.clone() for name, value in context.model.state_dict().items()}
        gates = GateSettings(
            start=math.log((1 - settings.drop) / settings.drop),
            distribution=HardConcrete(beta=1.0),
            threshold_at_half=settings.keep == "open",
        )
        self.learner = GateLearner(context, self.dense, gates)
        if settings.freeze_embeddings:
            freeze_embeddings(context.model)

    def train_gates(self, budget: Budget) -> None:
        """See ``Fitted.train_gates``."""
        if self.learner.is_trained(budget.folder):
            return
        settings, context = self.settings, self.context
        assert context.train is not None
        steps, pace = gate_schedule(settings, len(context.train), context.rows_a_step)  # pyright: ignore[reportArgumentType]
        self.learner.reset(self.start)
        if settings.prepruning:
            objective = StudentObjective("prepruning", self._loss(), None, [])
            place = context.folder / budget.folder / "prepruning"
            self.learner.train_model(objective, self._training(settings.prepruning, 0), place)
        student = GatedStudent(
            Gated(context.model, context.structure, self.learner.new_gates(hidden=False), seed=context.seed),
            Removal(budget, context.structure.sizes),
            None,
            [],
            stiffness=settings.stiffness,
            beta=settings.beta,
        )
        training = self._training(0.0, steps)
        self.learner.train(student, self._loss(), pace, budget, training, settings.evaluations)

    def allocate(self, budget: Budget) -> Allocation:
        """See ``Fitted.allocate``."""
        return self.learner.allocate(budget)

    def apply(self, allocation: Allocation, folder: str) -> Mask:
        """See ``Fitted.apply``; with ``rewind`` the weights of the start, with the strongest components."""
        if not self.settings.rewind:
            return self.learner.apply(allocation, folder)
        structure, learned = self.context.structure, self.learner.mask(allocation, folder)
        kept = {
            group.name: torch.arange(allocation[group.name]) if group.kind is Kind.RANK else learned.units(group.name)
            for group in structure
        }
        self.learner.reset(self.start)
        mask = Mask.from_units(structure, kept)
        zero_masked(self.context.model, structure, mask)
        return mask

    def finetune(self, teacher: nn.Module, mask: Mask, folder: str) -> StudentObjective:
        """The same loss without gates."""
        return StudentObjective("recovery", self._loss(), None, [])

    def expected_sparsity(self, folder: str) -> float:
        """See ``Fitted.expected_sparsity``."""
        return self.learner.expected_sparsity(folder)

    def _training(self, epochs: float, steps: int) -> Training:
        settings = self.settings
        return Training(
            epochs,
            steps,
            settings.rate,
            self.context.train_batch_size,
            warmup=settings.warmup,
            schedule=settings.schedule,
            clip=settings.clip,
        )

    def _loss(self) -> StudentLoss:
        settings, task = self.settings, self.context.task
        if settings.teach == "labels":
            return LabelLoss(task)
        return DistillationLoss(self.dense, task, settings.temperature, output_weight=1.0, layer_weight=0.0)


def gate_schedule(settings: GateTrainingSettings, rows: int, batch: int) -> tuple[int, GatePace]:
    """Optimiser steps, and a pace at which gates can close while the target rises.

    With too few steps the masks are shifted to the target after the training.

    Args:
        settings: hyper-parameters.
        rows: rows of the training split.
        batch: rows per step.
    """
    steps = settings.steps or math.ceil(settings.epochs * rows / batch)
    ramp = max(round(steps * settings.ramp / settings.epochs), min(steps // 2, math.ceil(TRAVEL / FASTEST)))
    needed = min(FASTEST, TRAVEL / max(1, ramp))
    if needed > settings.gate_rate:
        logger.info("gates cannot close in %d steps at a rate of %g; using %.3g", ramp, settings.gate_rate, needed)
    rate = max(settings.gate_rate, needed)
    scheduled = settings.schedule == "noam"
    return steps, GatePace(ramp, rate, settings.multiplier_rate, settings.ascent, scheduled=scheduled)


def fit_factors(context: PruneContext, which: str) -> None:
    """Factorise the matrices of the model anew, in place, as the best approximation on the calibration texts."""
    refit(context.model, pair_input_moments(context, which))


def pair_input_moments(context: PruneContext, which: str) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """Path of every pair -> second moments of its input on the calibration texts; pairs with one input are observed once.

    Args:
        context: model and texts.
        which: see ``secateurs.surgery.factorize.matrices``.
    """
    places: dict[tuple[str, bool, str], list[str]] = {}
    for path, group in matrices(context.model, which).items():
        if f"{path}.first" in dict(context.model.named_modules()):
            place = (group.name, group.output_projection == f"{path}.first", group.tokens_of(path))
            places.setdefault(place, []).append(path)
    watched = Structure(tuple(_input_as_group(context.model, path, place[2]) for place, (path, *_) in places.items()))
    moments = calibrate(context.model, watched, context.fit, device=context.device, track=context.track)
    return {path: moments[paths[0]].gram for paths in places.values() for path in paths}


def _input_as_group(model: nn.Module, path: str, tokens: str) -> Group:
    """A group whose units are the input dimensions of a pair, for ``calibrate``."""
    weight = model.get_parameter(f"{path}.first.weight")
    cuts = (Cut(f"{path}.first.weight", 1),)
    return Group(
        path,
        Kind.INTERMEDIATE,
        weight.shape[1],
        cuts,
        output_projection=f"{path}.first",
        block=path,
        layer="",
        stream="",
        tokens=tokens,
    )
