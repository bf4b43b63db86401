"""A pruner whose masks are learned: one training for every target, kept on disk, and read again when it is there."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateurs.arithmetic import native_bfloat16
from secateurs.cost import ParameterCost
from secateurs.errors import CheckpointError
from secateurs.job import Job, Pruner
from secateurs.kept_norm import release
from secateurs.latency_table import LatencyTable
from secateurs.layers import layer_paths
from secateurs.mask import Mask
from secateurs.methods._distillation import Distillation, Taught
from secateurs.methods._learned_masks import BEST, LearnedMasks, move_to_target
from secateurs.methods._mask_learning import MaskLearner, MaskLearning, Pace, Removal
from secateurs.methods._open_counts import open_counts
from secateurs.methods._schedule import steps_and_rate
from secateurs.methods._ziplm_start import ziplm_start
from secateurs.objective import Objective
from secateurs.processes import first
from secateurs.stages.distill import SquareHead
from secateurs.stages.gates import Gated, Gates
from secateurs.stages.layer_matching import LayerMatching
from secateurs.stages.train import Training, train
from secateurs.target import Budget

if TYPE_CHECKING:
    from secateurs.methods.cofi import CoFi

__all__ = ["LearnedPruner"]

logger = logging.getLogger(__name__)


class LearnedPruner(Pruner):
    """Learns gates for each target from the dense model.

    Args:
        how: the hyper-parameters.
        job: model, texts and task.
    """

    def __init__(self, how: CoFi, job: Job) -> None:
        assert job.collate is not None
        self.how, self.job = how, job
        self.dense = copy.deepcopy(job.model)  # the teacher, and where every target starts
        self.layers = _groups_by_layer(job)
        self.stream = job.structure.stream.name if job.structure.stream else None
        self.width = _width(job)
        if how.freeze_embeddings:
            for module in job.model.modules():
                if isinstance(module, nn.Embedding):
                    module.requires_grad_(False)

    def choose(self, budget: Budget) -> Mask:
        """See ``secateurs.job.Pruner``. A corrected budget gets the gates that were learned for its target, with
        another threshold."""
        if not (self._learned(budget.folder) / BEST).is_file():
            self._learn(budget)
        gates = self._gates(self._read(budget.folder))
        return gates.opened(open_counts(gates, budget, self.job.structure)).mask()

    def install(self, mask: Mask, folder: str) -> Mask:
        """The weights that were learned, with the gates folded in."""
        learned = self._read(folder)
        gates = self._gates(learned)
        self._reset(_under(learned, "model."))
        Gated(self.job.model, self.job.structure, gates).folded(gates.opened(mask.counts))
        return mask

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Objective:
        """The same distillation, with the map that was learned; or every layer by its twin."""
        if self.how.finetuning_by == "twins" and self.how.layer_weight and not self.stream:
            return SquareHead(teacher, self.job.task)
        matching = None
        if self.how.layer_weight:
            stays = mask.units(self.stream) if self.stream else torch.arange(self.width)
            learned = _under(self._read(folder), "matching.")
            learned["transform.weight"] = learned["transform.weight"][:, stays.to(self.job.device)]
            matching = self._matching(len(stays))
            _load(matching, learned)
        kept = [any(bool(mask[name].any()) for name in names) for names in self.layers]
        return Taught("recovery", self._distillation(teacher), matching, kept)

    @torch.no_grad()
    def expected(self, folder: str) -> float:
        """See ``secateurs.job.Pruner``."""
        cost = ParameterCost.of(self.job.model, self.job.structure, self.dense)
        return float(cost.expected_sparsity(*self._gates(self._read(folder)).expected()))

    def _learn(self, budget: Budget) -> None:
        """Train, and leave the best masks within the target, with their weights, on disk."""
        how, job, place = self.how, self.job, self.job.folder / budget.folder
        steps, pace = self._schedule()
        self._reset(dict(self.dense.state_dict()))
        self._start_elsewhere(place)
        matching = self._matching(self.width) if how.layer_weight else None
        by_time = isinstance(budget.cost, LatencyTable)  # which says nothing of the hidden size
        gates = Gates(
            job.structure, coarse=how.coarse, hidden=not by_time, start=how.gate_start, reach=how.reach, seed=job.seed
        )
        gates.to(job.device)
        if how.masks == "ziplm":
            start = first(lambda: ziplm_start(replace(job, model=self.dense), budget))
            start.set(gates)
            _load(job.model, dict(start.weights))
        removal = Removal(budget, job.structure.sizes)
        gated = Gated(job.model, job.structure, gates, seed=job.seed)
        learner = MaskLearner(gated, removal, matching, self.layers, stiffness=how.stiffness)
        if how.masks == "ziplm":
            logger.info("ZipLM's masks, moved by %.3f", move_to_target(learner))
        masks = LearnedMasks(self._learned(budget.folder), learner, budget, job, self.dense)
        objective = MaskLearning(learner, self._distillation(self.dense), pace, masks.examine, how.looks)
        self._train(objective, Training(0.0, steps, how.rate, job.train_batch_size), place / "pruning")
        first(masks.finish)

    def _schedule(self) -> tuple[int, Pace]:
        """Steps, and a pace at which gates can close within them."""
        how, job = self.how, self.job
        assert job.train is not None
        steps, rate = steps_and_rate(how, len(job.train), job.rows_a_step)
        if rate > how.gate_rate:
            logger.warning(
                "%d steps are too few to close gates at a rate of %g; using %.3g", steps, how.gate_rate, rate
            )
        ramp = 0 if how.masks == "ziplm" else round(steps * how.ramp / how.epochs)
        return steps, Pace(ramp, rate, how.multiplier_rate, how.ascent)

    def _start_elsewhere(self, place: Path) -> None:
        """Another student than the teacher: its weights, and distillation before it is pruned."""
        how, job = self.how, self.job
        if how.start:
            job.task.graft(job.model, how.start)
        if not how.prepruning:
            return
        matching = self._matching(self.width) if how.layer_weight else None
        objective = Taught("prepruning", self._distillation(self.dense), matching, [True] * len(self.layers))
        self._train(objective, Training(how.prepruning, 0, how.rate, job.train_batch_size), place / "prepruning")

    def _train(self, objective: Any, how: Training, place: Path) -> None:
        job = self.job
        assert job.collate is not None
        bf16 = native_bfloat16(job.device)
        how = replace(how, bf16=bf16, accumulate=job.accumulate, trackers=job.trackers, logs=job.logs(place))
        train(
            job.model, objective, job.train, job.collate, how, place, seed=job.seed, device=job.device, track=job.track
        )

    def _reset(self, values: dict[str, Tensor]) -> None:
        """The model as it was before any gate was folded into it, with these values."""
        stream = self.job.structure.stream
        for path in stream.norms if stream else ():
            release(self.job.model.get_submodule(path))
        _load(self.job.model, values)

    def _matching(self, width: int) -> LayerMatching:
        how, job = self.how, self.job
        return LayerMatching(width, self.width, matching=how.matching, seed=job.seed).to(job.device)

    def _distillation(self, teacher: nn.Module) -> Distillation:
        how = self.how
        return Distillation(teacher, self.job.task, how.temperature, how.output_weight, how.layer_weight)

    def _learned(self, folder: str) -> Path:
        """Beside the work of the target, which is cleared away when it is done: what was learned stays."""
        return self.job.folder / "learned" / folder

    def _read(self, folder: str) -> dict[str, Tensor]:
        path = self._learned(folder) / BEST
        try:
            return load_file(path, device=str(self.job.device))
        except Exception as error:
            raise CheckpointError(f"cannot read the learned masks {path}: {error}") from None

    def _gates(self, learned: dict[str, Tensor]) -> Gates:
        gates = self._blank_gates(learned)
        _load(gates, _under(learned, "gates."))
        return gates

    def _blank_gates(self, learned: dict[str, Tensor]) -> Gates:
        """Of the kind that was learned."""
        return Gates(self.job.structure, coarse=self.how.coarse, hidden=bool(learned["hidden"])).to(self.job.device)


def _groups_by_layer(job: Job) -> list[list[str]]:
    """Names of the groups of every layer, also of those that have none left."""
    layers = job.structure.layers
    return [[group.name for group in layers.get(path, ())] for path in layer_paths(job.model, job.structure)]


def _width(job: Job) -> int:
    """Of the hidden states: what an output projection writes. A config may be older than the model."""
    cut = job.structure.groups[0].reader_cut
    return job.model.get_parameter(cut.parameter).shape[1 - cut.dim]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def _load(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Write values into what is there: tensors are shared with the pruner's own views."""
    own = module.state_dict()
    if own.keys() != values.keys():
        raise CheckpointError(
            f"the learned masks are of another model; they differ in {sorted(own.keys() ^ values.keys())[0]}"
        )
    for name, value in values.items():
        own[name].copy_(value)
