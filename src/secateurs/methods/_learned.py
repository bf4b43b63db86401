"""A pruner whose masks are learned: one training for every target, kept on disk, and read again when it is there."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateurs.arithmetic import fast, native_bfloat16
from secateurs.artefact import write
from secateurs.cost import LatencyTable, ParameterCost
from secateurs.errors import CheckpointError
from secateurs.job import Job, Pruner
from secateurs.kept_norm import release
from secateurs.layers import layer_paths
from secateurs.mask import Mask
from secateurs.methods._distillation import Distillation, Taught
from secateurs.methods._mask_learning import MaskLearner, MaskLearning, Removal
from secateurs.methods._open_counts import open_counts
from secateurs.methods._schedule import steps_and_rate
from secateurs.processes import first
from secateurs.stages.evaluate import divergence, signals
from secateurs.stages.gates import Gated, Gates, Opening
from secateurs.stages.layer_matching import LayerMatching
from secateurs.stages.train import Training, train
from secateurs.target import Budget

if TYPE_CHECKING:
    from secateurs.methods.cofi import CoFi

__all__ = ["LearnedPruner"]

logger = logging.getLogger(__name__)

BAND = 0.005
"""Masks whose expected removal is this close to the target may be taken."""

EXAMINED = 512
"""Texts on which masks are compared with the teacher, at most."""


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
        if not self._path(budget.folder).is_file():
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

    def recovery(self, teacher: nn.Module, mask: Mask, folder: str) -> Taught:
        """The same distillation, with the map that was learned."""
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
        cost = ParameterCost.of(self.dense, self.job.structure)
        return float(cost.expected_sparsity(*self._gates(self._read(folder)).expected()))

    def _learn(self, budget: Budget) -> None:
        """Train, and leave the best masks within the target, with their weights, on disk."""
        how, job, place = self.how, self.job, self.job.folder / budget.folder
        steps, ramp, rate = self._schedule()
        self._reset(dict(self.dense.state_dict()))
        self._start_elsewhere(place)
        matching = self._matching(self.width) if how.layer_weight else None
        by_time = isinstance(budget.cost, LatencyTable)  # which says nothing of the hidden size
        gates = Gates(job.structure, coarse=how.coarse, hidden=not by_time, seed=job.seed).to(job.device)
        removal = Removal(budget, job.structure.sizes)
        learner = MaskLearner(Gated(job.model, job.structure, gates, seed=job.seed), removal, matching, self.layers)
        best = _Best(self, learner, budget)
        objective = MaskLearning(learner, self._distillation(self.dense), ramp, rate, best.examine, how.looks)
        self._train(objective, Training(0.0, steps, how.rate, job.train_batch_size), place / "pruning")
        first(best.finish)

    def _schedule(self) -> tuple[int, int, float]:
        """Steps, those of the ramp among them, and the rate of the gates."""
        how, job = self.how, self.job
        assert job.train is not None
        steps, rate = steps_and_rate(how, len(job.train), job.rows_a_step)
        if rate > how.gate_rate:
            logger.warning(
                "%d steps are too few to close gates at a rate of %g; using %.3g", steps, how.gate_rate, rate
            )
        return steps, round(steps * how.ramp / how.epochs), rate

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

    def _path(self, folder: str) -> Path:
        return self.job.folder / folder / "learned.safetensors"

    def _read(self, folder: str) -> dict[str, Tensor]:
        try:
            return load_file(self._path(folder), device=str(self.job.device))
        except Exception as error:
            raise CheckpointError(f"cannot read the learned masks {self._path(folder)}: {error}") from None

    def _gates(self, learned: dict[str, Tensor]) -> Gates:
        hidden = bool(learned["hidden"])
        gates = Gates(self.job.structure, coarse=self.how.coarse, hidden=hidden).to(self.job.device)
        _load(gates, _under(learned, "gates."))
        return gates


class _Best:
    """Looks at the masks from time to time, and keeps those on disk that are closest to the teacher."""

    def __init__(self, pruner: LearnedPruner, learner: MaskLearner, budget: Budget) -> None:
        self.pruner, self.learner, self.budget = pruner, learner, budget
        job = pruner.job
        self.batches = job.batches[: max(1, EXAMINED // len(job.batches[0]["input_ids"]))]
        self.wanted = signals(pruner.dense, job.task, self.batches, job.device)
        self.path = job.folder / budget.folder / "best.safetensors"

    def examine(self, step: int) -> None:
        """Keep the masks as they are now, if they meet the target and none before them was closer."""
        first(lambda: self._examine(step))

    def _examine(self, step: int) -> None:
        expected = self.learner.expected().item()
        off = expected - self.learner.removal.target
        apart = self._apart()
        logger.info(
            "step %d: expected to remove %.1f %% (target %.1f %%), divergence %.4f", step, 100 * expected,
            100 * self.learner.removal.target, apart,
        )  # fmt: skip
        if abs(off) <= BAND and apart < self._best():
            self._save(self.path, apart)

    def finish(self) -> None:
        """The best are what was learned; where none met the target, the last are, moved to it."""
        if not self.path.is_file():
            shift = _move_to_target(self.learner)
            logger.warning("no masks met the target within %.1f %%; the last were moved by %.3f", 100 * BAND, shift)
            self._save(self.path, self._apart())
        self.path.rename(self.pruner._path(self.budget.folder))

    def _apart(self) -> float:
        job, gated = self.pruner.job, self.learner.gated
        gated.eval()
        gates = gated.gates
        opening = gates.opened(open_counts(gates, self.budget, job.structure))
        with fast(job.device):
            return divergence(_Opened(gated, opening), job.task, self.batches, self.wanted, job.device)

    def _best(self) -> float:
        if not self.path.is_file():
            return math.inf
        return float(load_file(self.path)["divergence"])

    def _save(self, path: Path, apart: float) -> None:
        learner = self.learner
        parts = {"model": learner.gated.model, "gates": learner.gated.gates, "matching": learner.matching}
        whole = {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, module in parts.items()
            if module is not None
            for key, value in module.state_dict().items()
        }
        hidden = learner.gated.gates.hidden.requires_grad
        told = {"divergence": torch.tensor(apart), "hidden": torch.tensor(hidden)}
        write(path, lambda partial: save_file({**whole, **told}, partial))


class _Opened(nn.Module):
    """Gates, so far open."""

    def __init__(self, gated: Gated, opening: Opening) -> None:
        super().__init__()
        self.gated, self.far = gated, opening

    def forward(self, **inputs: Any) -> Any:
        return self.gated.opened(self.far, **inputs)


@torch.no_grad()
def _move_to_target(learner: MaskLearner) -> float:
    """Add one number to every ``log_alpha``, so that the expected removal is the target; their order stays."""
    gates = learner.gated.gates
    start = [parameter.clone() for parameter in gates.parameters()]
    low, high, middle = -20.0, 20.0, 0.0  # lower removes more
    for _ in range(60):
        middle = (low + high) / 2
        for parameter, old in zip(gates.parameters(), start, strict=True):
            parameter.copy_(old + middle)
        low, high = (middle, high) if learner.expected().item() > learner.removal.target else (low, middle)
    return middle


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
