"""A pruner whose ranks are learned: the loop of ``_learned``, with FLOP's gates, constants and losses."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateurs.factorize import matrices, refit
from secateurs.job import Job
from secateurs.mask import Mask
from secateurs.methods._distillation import Distillation, Taught
from secateurs.methods._learned import LearnedPruner
from secateurs.methods._learned_masks import LearnedMasks
from secateurs.methods._mask_learning import MaskLearner, MaskLearning, Pace, Removal
from secateurs.numerics.hard_concrete import HardConcrete
from secateurs.processes import first
from secateurs.shrink import zero_masked
from secateurs.stages.calibrate import calibrate
from secateurs.stages.gates import Gated, Gates
from secateurs.stages.train import Training
from secateurs.structure import Cut, Group, Kind, Structure
from secateurs.target import Budget

if TYPE_CHECKING:
    from secateurs.methods.flop import FLOP

__all__ = ["Labels", "RankPruner", "input_moments"]

logger = logging.getLogger(__name__)

TRAVEL = 15.0
"""A ``log_alpha`` must be able to go this far while the target rises. To shut a gate takes 8; where that is all there is time
for, the multipliers rise too far, more goes than was asked, and half of the steps are spent on a model that is none yet."""

FASTEST = 0.3
"""The highest rate that is chosen for the gates; a ramp is long enough for it, if that leaves half of the steps."""


@dataclass(frozen=True)
class Labels:
    """What a student is taught by the labels: the task's own loss. There is no teacher, and no lesson.

    Args:
        task: whose ``loss`` is taken.
    """

    task: Any

    def inputs(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """With labels, for models that compute their loss themselves."""
        return self.task.inputs_for_loss(model, batch)

    def lesson(self, inputs: dict[str, Tensor]) -> None:
        """None."""

    def loss(self, outputs: Any, lesson: None, inputs: dict[str, Tensor], *_: Any) -> Float[Tensor, ""]:
        """Of one batch."""
        return self.task.loss(outputs, inputs)


class RankPruner(LearnedPruner):
    """Learns the gates of components for each target, from the same factors.

    Args:
        how: the hyper-parameters.
        job: its model has pairs of factors, its teacher is the dense model.
    """

    def __init__(self, how: FLOP, job: Job) -> None:
        assert job.collate is not None and job.teacher is not None
        self.how: Any = how
        self.job, self.dense = job, job.teacher
        self.layers, self.stream = [], None
        if how.init == "aware":
            refit(job.model, input_moments(job, how.matrices))
        self.start = {name: value.clone() for name, value in job.model.state_dict().items()}
        if how.freeze_embeddings:
            for module in job.model.modules():
                if isinstance(module, nn.Embedding):
                    module.requires_grad_(False)

    def install(self, mask: Mask, folder: str) -> Mask:
        """The weights that were learned, with the gates folded in; rewound, those at the start, the strongest first."""
        if not self.how.rewind:
            return super().install(mask, folder)
        structure = self.job.structure
        ordered = {group.name: group.kind is Kind.RANK for group in structure}
        kept = {name: torch.arange(mask.counts[name]) if ordered[name] else mask.units(name) for name in ordered}
        self._reset(self.start)
        rewound = Mask.from_units(structure, kept)
        zero_masked(self.job.model, structure, rewound)
        return rewound

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Taught:
        """The same loss without gates."""
        return Taught("recovery", self._teaching(), None, [])

    def _learn(self, budget: Budget) -> None:
        """See ``LearnedPruner``."""
        how, job, place = self.how, self.job, self.job.folder / budget.folder
        steps, pace = self._schedule()
        self._reset(self.start)
        if how.prepruning:
            objective = Taught("prepruning", self._teaching(), None, [])
            self._train(objective, self._training(how.prepruning, 0), place / "prepruning")
        gates = self._new_gates()
        learner = MaskLearner(
            Gated(job.model, job.structure, gates, seed=job.seed),
            Removal(budget, job.structure.sizes),
            None,
            [],
            stiffness=how.stiffness,
            beta=how.beta,
        )
        masks = LearnedMasks(self._learned(budget.folder), learner, budget, job, self.dense)
        objective = MaskLearning(learner, self._teaching(), pace, masks.examine, how.looks)
        self._train(objective, self._training(0.0, steps), place / "pruning")
        first(masks.finish)

    def _schedule(self) -> tuple[int, Pace]:
        """Steps, and a pace at which gates can close while the target rises; with fewer, masks are moved to the target."""
        how, job = self.how, self.job
        assert job.train is not None
        steps = how.steps or math.ceil(how.epochs * len(job.train) / job.rows_a_step)
        ramp = max(round(steps * how.ramp / how.epochs), min(steps // 2, math.ceil(TRAVEL / FASTEST)))
        needed = min(FASTEST, TRAVEL / max(1, ramp))
        if needed > how.gate_rate:
            logger.info("gates cannot close in %d steps at a rate of %g; using %.3g", ramp, how.gate_rate, needed)
        rate = max(how.gate_rate, needed)
        return steps, Pace(ramp, rate, how.multiplier_rate, how.ascent, scheduled=how.schedule == "noam")

    def _training(self, epochs: float, steps: int) -> Training:
        how = self.how
        return Training(
            epochs, steps, how.rate, self.job.train_batch_size, how.warmup, schedule=how.schedule, clip=how.clip
        )

    def _teaching(self) -> Any:
        how = self.how
        if how.teach == "labels":
            return Labels(self.job.task)
        return Distillation(self.dense, self.job.task, how.temperature, 1.0, 0.0)

    def _new_gates(self) -> Gates:
        """One a component, with ``beta = 1``, and nowhere held back."""
        return Gates(
            self.job.structure,
            coarse=False,
            hidden=False,
            start=math.log((1 - self.how.drop) / self.how.drop),
            reach=math.inf,
            distribution=HardConcrete(beta=1.0),
            rather=self.how.keep == "open",
            seed=self.job.seed,
        ).to(self.job.device)

    def _blank_gates(self, learned: dict[str, Tensor]) -> Gates:
        return self._new_gates()


def input_moments(job: Job, which: str) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """Path of every pair -> mean second moments of what it reads on the calibration texts; equal inputs are watched once."""
    places: dict[tuple[str, bool], list[str]] = {}
    for path, group in matrices(job.model, which).items():
        if f"{path}.first" in dict(job.model.named_modules()):
            places.setdefault((group.name, group.reader == f"{path}.first"), []).append(path)
    watched = Structure(tuple(_inputs(job.model, path) for path, *_ in places.values()))
    moments = calibrate(job.model, watched, job.batches, device=job.device, track=job.track)
    return {path: moments[paths[0]].gram for paths in places.values() for path in paths}


def _inputs(model: nn.Module, path: str) -> Group:
    """What a pair reads, as if its inputs were units."""
    weight = model.get_parameter(f"{path}.first.weight")
    cuts = (Cut(f"{path}.first.weight", 1),)
    return Group(
        path, Kind.INTERMEDIATE, weight.shape[1], cuts, reader=f"{path}.first", block=path, layer="", stream=""
    )
