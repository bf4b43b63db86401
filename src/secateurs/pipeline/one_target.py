"""One target, from the masks to the finished model folder.

    train gates -> allocate and time (the contract) -> train while pruning -> apply -> shrink -> fine-tune -> evaluate -> save

Steps that a method does not have do nothing.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.artifacts import write_json
from secateurs.checkpoint import save_load
from secateurs.checkpoint.dense_files import card_metadata
from secateurs.checkpoint.stored_dtype import cast_weights, round_weights
from secateurs.context import PruneContext
from secateurs.distributed import first
from secateurs.latency.compare import Measurement, compare
from secateurs.latency.environment import Environment, machine
from secateurs.latency.table import LatencyTable
from secateurs.methods.base import Fitted
from secateurs.numerics.precision import native_bfloat16
from secateurs.pipeline import contract
from secateurs.pipeline.load import Loaded
from secateurs.pipeline.stage_timer import StageTimer
from secateurs.report.card import card
from secateurs.report.card_metadata import ModelFacts
from secateurs.report.report import Report
from secateurs.report.values import Divergence, Interval, Kept, Metric, ModelResult
from secateurs.structure.allocation import Allocation
from secateurs.structure.cost import ParameterCost, share_of_zeros
from secateurs.structure.layers import layer_size
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Kind, Structure
from secateurs.structure.target import Budget, Sparsity, Target
from secateurs.surgery.shrink import shrink
from secateurs.tasks.base import Score
from secateurs.training.evaluate import divergence, record_outputs
from secateurs.training.trainer import Training, train

__all__ = ["TargetContext", "evaluation_data", "measured_here", "prune_to_target", "record_path"]


MEASURE_SECONDS = 60.0
"""A measurement ends after this many seconds, even if its interval is still wider than asked for."""


@dataclass(frozen=True)
class TargetContext:
    """What all targets of a run share.

    Args:
        loaded: everything that the recipe names.
        table: latency table.
        dense_score: metric of the dense model; ``None`` without labelled data.
        context: what the method was given.
        fitted: the fitted method.
        teacher: the dense model, never rewritten.
        folder: the run folder.
        report: report of the run, without models.
    """

    loaded: Loaded
    table: LatencyTable
    dense_score: Score | None
    context: PruneContext
    fitted: Fitted
    teacher: Any
    folder: Path
    report: Report

    @property
    def unpruned(self) -> nn.Module:
        """The unpruned model of the structure; only its shapes are used."""
        return self.teacher if self.loaded.model is self.loaded.dense else self.loaded.model

    @cached_property
    def parameters(self) -> ParameterCost:
        """Parameters as a function of kept counts."""
        return ParameterCost.of(self.unpruned, self.loaded.structure, self.teacher)

    @cached_property
    def teacher_outputs(self) -> list[Tensor]:
        """Outputs of the dense model on the texts that are reported on."""
        loaded = self.loaded
        return record_outputs(self.teacher, loaded.task, loaded.data.roles.report.batches, loaded.recipe.device)

    @cached_property
    def evaluation(self) -> Any:
        """Labelled data, with outputs of the dense model where the metric needs them."""
        return evaluation_data(self.loaded, self.teacher)

    def budget(self, target: Target) -> Budget:
        """What the method must keep within for a target."""
        return target.budget(self.parameters) if isinstance(target, Sparsity) else target.budget(self.table)

    def measure(self, allocation: Allocation) -> Measurement:
        """Time the dense model shrunk to an allocation against the dense model, interleaved, on rank 0."""
        return first(lambda: self._measure(allocation))

    def _measure(self, allocation: Allocation) -> Measurement:
        structure = self.loaded.structure
        units = {name: torch.arange(count) for name, count in allocation.items()}  # time depends on their number alone
        shrunk = shrink(copy.deepcopy(self.unpruned), structure, Mask.from_units(structure, units), values=False)
        models = {"dense": self.teacher, "pruned": shrunk}
        return compare(models, self.loaded.environment, seed=self.loaded.recipe.seed, seconds=MEASURE_SECONDS)


def prune_to_target(shared: TargetContext, target: Target, seconds: dict[str, float]) -> None:
    """Prune, fine-tune, evaluate and save: one model folder and one record.

    Args:
        shared: what all targets share.
        target: the target.
        seconds: stage -> seconds of the stages that all targets share.
    """
    loaded, fitted, context = shared.loaded, shared.fitted, shared.context
    budget = shared.budget(target)
    place = context.folder / target.folder
    timer = StageTimer()
    if loaded.method.trains:
        fitted.train_gates(budget)
        timer.end("train gates")
    attempt = _meet_target(shared, target, budget, place)
    timer.end("search")
    if loaded.method.trains:
        fitted.train_while_pruning(budget, attempt.allocation)
        timer.end("train while pruning")
    mask = fitted.apply(attempt.allocation, target.folder)
    # A real copy, since the method goes on swapping tensors of the live model.
    model = shrink(copy.deepcopy(context.model), context.structure, mask)
    timer.end("fit")
    if loaded.finetuning:
        _finetune(shared, model, mask, target, place)
        timer.end("recover")
    first(lambda: _finalize(shared, target, attempt, model, mask, {**seconds, **timer.seconds}))


def _meet_target(shared: TargetContext, target: Target, budget: Budget, place: Path) -> contract.Attempt:
    """Settle the allocation, and measure how fast it is."""
    if isinstance(target, Sparsity):
        return contract.single_attempt(budget, shared.table, shared.fitted, shared.measure, place)
    return contract.meet(
        target,
        shared.table,
        shared.fitted,
        shared.measure,
        place,
        tolerance=shared.loaded.recipe.tolerance,
        enforce=measured_here(shared.table, shared.loaded.environment),
    )


def _finetune(shared: TargetContext, model: nn.Module, mask: Mask, target: Target, place: Path) -> None:
    """Train the shrunk model in place, on the objective of its method."""
    loaded, recipe = shared.loaded, shared.loaded.recipe
    train(
        model,
        shared.fitted.finetune(shared.teacher, mask, target.folder),
        loaded.data.train,
        loaded.data.collate,
        Training(
            loaded.finetuning.epochs,
            loaded.finetuning.steps,
            loaded.finetuning.learning_rate,
            batch_size=recipe.train_batch_size,
            accumulate=recipe.accumulate,
            bf16=native_bfloat16(recipe.device),
            trackers=recipe.trackers,
            logs=shared.context.logs(place / "recovery"),
        ),
        place / "recovery",
        seed=recipe.seed,
        device=recipe.device,
        track=shared.context.track,
    )


def _finalize(
    shared: TargetContext,
    target: Target,
    attempt: contract.Attempt,
    model: nn.Module,
    mask: Mask,
    seconds: dict[str, float],
) -> None:
    """Evaluate the model, save it, and write its record."""
    loaded, allocation = shared.loaded, attempt.allocation
    timer = StageTimer()
    dtype = round_weights(model, loaded.dtype)  # first, so that what is evaluated is what is saved
    metric, apart = _quality(shared, model)
    timer.end("evaluate")
    sparsity, zeros = float(shared.parameters.sparsity(allocation)), share_of_zeros(model, loaded.structure)
    result = ModelResult(
        target=target.value,
        predicted_speedup=attempt.predicted,
        measured_speedup=Interval(**attempt.speed.to_dict()),
        latency_ms=attempt.pruned.latency_ms,
        dense_latency_ms=attempt.dense.latency_ms,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense_parameters=sum(parameter.numel() for parameter in shared.teacher.parameters()),
        sparsity=sparsity,
        metric=metric,
        divergence=apart,
        seconds={**seconds, **timer.seconds},
        path=target.folder,
        kept=_kept(loaded.structure, allocation),
        met=sparsity + (1 - sparsity) * zeros >= target.value - 1e-9 if isinstance(target, Sparsity) else attempt.met,
        attempts=attempt.number,
        sparsity_with_norms=1 - layer_size(model, loaded.structure) / layer_size(shared.teacher, loaded.structure),
        expected_sparsity=shared.fitted.expected_sparsity(target.folder),
        zeros=zeros,
    )
    _save(shared, model, mask, result, dtype)
    write_json(record_path(shared.context.folder, target), asdict(result))  # last: it says that the target is done
    shutil.rmtree(shared.context.folder / target.folder, ignore_errors=True)


def _quality(shared: TargetContext, model: nn.Module) -> tuple[Metric | None, Divergence]:
    """The metric of the task, if there is labelled data; and the divergence from the dense outputs."""
    loaded, device = shared.loaded, shared.loaded.recipe.device
    metric = None
    if shared.dense_score is not None:
        score = loaded.task.evaluate(model, shared.evaluation, device)  # pyright: ignore[reportArgumentType]
        metric = Metric(score.name, score.value, shared.dense_score.value)
    apart = divergence(model, loaded.task, loaded.data.roles.report.batches, shared.teacher_outputs, device)
    return metric, Divergence(loaded.task.divergence_name, apart)


def _kept(structure: Structure, allocation: Mapping[str, int]) -> dict[str, Kept]:
    kept = {
        group.name: Kept(group.kind, group.size, allocation[group.name])
        for group in structure
        if not group.instead_of or allocation[group.name] < group.size  # a matrix of full rank is not split
    }
    if stream := structure.stream:
        kept[stream.name] = Kept(Kind.HIDDEN, stream.size, allocation[stream.name])
    return kept


def _save(shared: TargetContext, model: Any, mask: Mask, result: ModelResult, dtype: torch.dtype) -> None:
    """Write the model folder: weights, tokenizer, card, mask, and the measured numbers in the config.

    The model is changed to what is saved: its weights get ``dtype``, and its config the padding token of the dense model.
    """
    loaded = shared.loaded
    values = asdict(result)
    told = ("target", "predicted_speedup", "measured_speedup", "latency_ms", "dense_latency_ms", "metric", "divergence")
    details = {name: values[name] for name in told}

    def extras(into: Path) -> None:
        loaded.task.save_extras(loaded.recipe.model, into)
        mask.save(into / "mask.safetensors")

    cast_weights(model, dtype)
    model.config.pad_token_id = loaded.pad_token_id
    facts = ModelFacts(card_metadata(loaded.recipe.model), _dtype_name(dtype), save_load.has_code(model))
    save_load.save(
        model,
        loaded.tokenizer,
        shared.folder / result.path,
        details={
            **details,
            "quality_dtype": _dtype_name(torch.float32),
            "environment": loaded.environment.to_dict(),
            "machine": machine(),
        },
        card=card(shared.report, result, facts),
        extras=extras,
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measured_here(table: LatencyTable, environment: Environment) -> bool:
    """Whether the table was measured on this machine in this environment, so that timings here can judge it."""
    here = machine()
    same = all(table.machine.get(part) == here[part] for part in ("processor", "gpu"))
    return same and table.environment == environment


def evaluation_data(loaded: Loaded, dense: Any) -> Any:
    """The evaluation split, with outputs of the dense model where the metric needs them."""
    return loaded.task.reference(dense, loaded.data.evaluation, loaded.recipe.device)


def record_path(stages: Path, target: Target) -> Path:
    """The record of a finished target."""
    return stages / f"{target.folder}.json"
