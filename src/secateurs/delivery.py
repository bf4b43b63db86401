"""One target, from the choice of what to keep to the folder that is handed over.

choose and time (the contract) -> fit and shrink -> recover -> evaluate -> save
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secateurs import checkpoint, contract
from secateurs.arithmetic import native_bfloat16
from secateurs.artefact import write_json
from secateurs.cost import ParameterCost
from secateurs.environment import Environment, machine
from secateurs.job import Job
from secateurs.laps import Laps
from secateurs.latency_table import LatencyTable
from secateurs.layers import layer_size
from secateurs.loading import Loaded
from secateurs.mask import Mask
from secateurs.processes import first
from secateurs.report import Divergence, Interval, Kept, Metric, ModelResult, Report, card
from secateurs.shrink import shrink
from secateurs.stages.evaluate import divergence, signals
from secateurs.stages.measure import Measurement, compare
from secateurs.stages.train import Training, train
from secateurs.structure import Kind, Structure
from secateurs.target import Sparsity, Target
from secateurs.tasks import Score
from secateurs.zeros import share_of_zeros

__all__ = ["Work", "deliver", "evaluation", "measured_here", "record"]


MEASURE_SECONDS = 60.0
"""After this long a measurement ends, even if its interval is still wider than asked for."""


@dataclass(frozen=True)
class Work:
    """What all targets share."""

    loaded: Loaded
    table: LatencyTable
    dense: Score | None
    job: Job
    pruner: Any
    teacher: Any
    folder: Path
    report: Report

    @property
    def whole(self) -> Any:
        """The model of the structure with nothing gone; shapes are what counts, so it may have learned already."""
        return self.teacher if self.loaded.model is self.loaded.dense else self.loaded.model

    @cached_property
    def wanted(self) -> Any:
        """What the dense model says of the held-out texts."""
        return signals(self.teacher, self.loaded.task, self.loaded.held_out, self.loaded.recipe.device)

    @cached_property
    def judged(self) -> Any:
        """The labelled data, with what the dense model says of them where the metric needs that."""
        return evaluation(self.loaded, self.teacher)

    def measure(self, mask: Mask) -> Measurement:
        """Dense, and dense shrunk to a mask, interleaved in one process: the first."""
        return first(lambda: self._measure(mask))

    def _measure(self, mask: Mask) -> Measurement:
        shrunk = shrink(copy.deepcopy(self.whole), self.loaded.structure, mask, values=False)
        models = {"dense": self.teacher, "pruned": shrunk}
        return compare(models, self.loaded.environment, seed=self.loaded.recipe.seed, seconds=MEASURE_SECONDS)

    def build(self, mask: Mask, target: Target) -> tuple[Any, Mask]:
        """The shrunk model with its final weights, and which units it kept."""
        final = self.pruner.install(mask, target.folder)
        # A real copy: the pruner goes on swapping tensors of the live model.
        return shrink(copy.deepcopy(self.job.model), self.job.structure, final), final


def deliver(work: Work, target: Target, seconds: dict[str, float]) -> None:
    """Prune, recover, evaluate, save: one model folder and one record."""
    loaded = work.loaded
    place = work.job.folder / target.folder
    clock = Laps()
    cost = ParameterCost.of(work.whole, loaded.structure, work.teacher)
    attempt = _settle(work, target, cost, place)
    clock.lap("search")
    model, mask = work.build(attempt.mask, target)
    clock.lap("fit")
    if loaded.recovering:
        _recover(work, model, mask, target, place)
        clock.lap("recover")
    first(lambda: _hand_over(work, target, attempt, model, mask, {**seconds, **clock.laps}))


def _hand_over(
    work: Work, target: Target, attempt: contract.Attempt, model: Any, mask: Mask, seconds: dict[str, float]
) -> None:
    """Evaluate, save, write down."""
    loaded, counts = work.loaded, attempt.mask.counts
    clock = Laps()
    metric, apart = _quality(work, model)
    clock.lap("evaluate")
    cost = ParameterCost.of(work.whole, loaded.structure, work.teacher)
    sparsity, zeros = float(cost.sparsity(counts)), share_of_zeros(model, loaded.structure)
    result = ModelResult(
        target=target.value,
        predicted_speedup=attempt.predicted,
        measured_speedup=Interval(**attempt.speed.to_dict()),
        latency_ms=attempt.pruned.latency_ms,
        dense_latency_ms=attempt.dense.latency_ms,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_parameters=sum(parameter.numel() for parameter in work.teacher.parameters()),
        sparsity=sparsity,
        metric=metric,
        divergence=apart,
        seconds={**seconds, **clock.laps},
        path=target.folder,
        kept=_kept(loaded.structure, counts),
        met=sparsity + (1 - sparsity) * zeros >= target.value - 1e-9 if isinstance(target, Sparsity) else attempt.met,
        attempts=attempt.number,
        sparsity_with_norms=1 - layer_size(model, loaded.structure) / layer_size(work.teacher, loaded.structure),
        expected_sparsity=work.pruner.expected(target.folder),
        zeros=zeros,
    )
    _save(work, model, mask, result)
    write_json(record(work.job.folder, target), asdict(result))  # last: without it the target is not done
    shutil.rmtree(work.job.folder / target.folder, ignore_errors=True)


def _settle(work: Work, target: Target, cost: ParameterCost, place: Path) -> contract.Attempt:
    """What to keep, and how fast that is."""
    if isinstance(target, Sparsity):
        return contract.once(target.budget(cost), work.table, work.pruner, work.measure, place)
    return contract.keep(
        target,
        work.table,
        work.pruner,
        work.measure,
        place,
        tolerance=work.loaded.recipe.tolerance,
        enforce=measured_here(work.table, work.loaded.environment),
    )


def _recover(work: Work, model: Any, mask: Mask, target: Target, place: Path) -> None:
    """Train the shrunk model in place, as its method does."""
    loaded, recipe = work.loaded, work.loaded.recipe
    train(
        model,
        work.pruner.recovery(work.teacher, mask, target.folder),
        loaded.data.train,
        loaded.data.collate,
        Training(
            loaded.recovering.epochs,
            loaded.recovering.steps,
            loaded.recovering.learning_rate,
            batch_size=recipe.train_batch_size,
            accumulate=recipe.accumulate,
            bf16=native_bfloat16(recipe.device),
            trackers=recipe.trackers,
            logs=work.job.logs(place / "recovery"),
        ),
        place / "recovery",
        seed=recipe.seed,
        device=recipe.device,
        track=work.job.track,
    )


def _quality(work: Work, model: Any) -> tuple[Metric | None, Divergence]:
    """The task's metric where there is labelled data, and the distance from the dense outputs always."""
    loaded, device = work.loaded, work.loaded.recipe.device
    metric = None
    if work.dense is not None:
        score = loaded.task.evaluate(model, work.judged, device)
        metric = Metric(score.name, score.value, work.dense.value)
    apart = divergence(model, loaded.task, loaded.held_out, work.wanted, device)
    return metric, Divergence(loaded.task.divergence_name, apart)


def _kept(structure: Structure, counts: Mapping[str, int]) -> dict[str, Kept]:
    kept = {
        group.name: Kept(group.kind, group.size, counts[group.name])
        for group in structure
        if not group.instead_of or counts[group.name] < group.size  # a matrix that stayed whole has no ranks
    }
    if stream := structure.stream:
        kept[stream.name] = Kept(Kind.HIDDEN, stream.size, counts[stream.name])
    return kept


def _save(work: Work, model: Any, mask: Mask, result: ModelResult) -> None:
    """The model folder: weights, tokenizer, card, mask, and the measured numbers in its config."""
    loaded = work.loaded
    values = asdict(result)
    told = ("target", "predicted_speedup", "measured_speedup", "latency_ms", "dense_latency_ms", "metric", "divergence")
    details = {name: values[name] for name in told}

    def extras(into: Path) -> None:
        loaded.task.save_extras(loaded.recipe.model, into)
        mask.save(into / "mask.safetensors")

    checkpoint.save(
        model,
        loaded.tokenizer,
        work.folder / result.path,
        details={**details, "environment": loaded.environment.to_dict(), "machine": machine()},
        card=card(work.report, result),
        extras=extras,
    )


def measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Timings here only judge a table that was measured here."""
    here = machine()
    same = all(table.machine.get(part) == here[part] for part in ("processor", "gpu"))
    return same and table.environment == environment


def evaluation(loaded: Loaded, dense: Any) -> Any:
    return loaded.task.reference(dense, loaded.data.evaluation, loaded.recipe.device)


def record(stages: Path, target: Target) -> Path:
    return stages / f"{target.folder}.json"
