"""``FinishedModel``: a pruned model that is evaluated, saved, timed as it was saved, and delivered."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateurs.artifacts import write_json
from secateurs.checkpoint import save_load
from secateurs.checkpoint.dense_files import card_metadata
from secateurs.checkpoint.stored_dtype import cast_weights, round_weights
from secateurs.latency.compare import Measurement, Speed
from secateurs.latency.environment import machine
from secateurs.pipeline.attempt import Attempt
from secateurs.pipeline.keep_search import chosen_try, read_tries
from secateurs.pipeline.kept_quality import kept_quality
from secateurs.pipeline.target_context import TargetContext, record_path
from secateurs.pipeline.time_folder import time_folder
from secateurs.report.card import card
from secateurs.report.card_metadata import ModelFacts
from secateurs.report.generation import GenerationResult
from secateurs.report.kept_quality import KeptQuality
from secateurs.report.values import Divergence, Interval, Kept, Metric, ModelResult, Trial
from secateurs.structure.cost import share_of_zeros
from secateurs.structure.cut import Kind
from secateurs.structure.layers import layer_size
from secateurs.structure.mask import Mask
from secateurs.structure.structure import Structure
from secateurs.structure.target import Keep, Sparsity, Target
from secateurs.training.evaluate import divergence

__all__ = ["FinishedModel"]


class FinishedModel:
    """A shrunk model with final weights.

    Args:
        shared: what all targets share.
        target: the target of the model.
        model: the shrunk model; its weights are rounded to the dtype of the dense checkpoint.
        mask: the units of the dense model that were kept.
    """

    def __init__(self, shared: TargetContext, target: Target, model: Any, mask: Mask) -> None:
        self.shared, self.target, self.model, self.mask = shared, target, model, mask
        self.folder = shared.context.folder / target.folder / "model"
        """Folder of the saved model until it is delivered."""
        self.dtype = shared.loaded.dtype
        self.zeros = 0.0
        self.layer_parameters = 0
        self.metric: Metric | None = None
        self.divergence: Divergence | None = None
        self.kept_quality: KeptQuality | None = None

    def evaluate_and_save(self) -> None:
        """Compute the quality, then save the model without a card and measured numbers."""
        loaded, model = self.shared.loaded, self.model
        self.dtype = round_weights(model, loaded.dtype)  # first, so that what is evaluated is what is saved
        self.metric, self.divergence = self._quality(model)
        self.kept_quality = self._kept_quality() if isinstance(self.target, Keep) else None
        self.zeros = share_of_zeros(model, loaded.structure)
        self.layer_parameters = layer_size(model, loaded.structure)

        def extras(into: Path) -> None:
            loaded.task.save_extras(loaded.recipe.model, into)
            self.mask.save(into / "mask.safetensors")

        cast_weights(model, self.dtype)
        model.config.pad_token_id = loaded.pad_token_id
        save_load.save(model, loaded.tokenizer, self.folder, extras=extras)

    @property
    def quality(self) -> str:
        """Metric and divergence in words, after the evaluation; the first process knows them."""
        metric, apart = self.metric, self.divergence
        words = [f"{metric.name} {metric.value:.4g} (dense {metric.dense:.4g})"] if metric else []
        return ", ".join([*words, *([f"{apart.name} {apart.value:.3g}"] if apart else [])])

    def time(self) -> Measurement:
        """Time the saved folder in the number of fresh processes that the recipe names."""
        loaded = self.shared.loaded
        return time_folder(
            loaded, self.folder, loaded.recipe.timing_processes, self.shared.context.track, "time the saved model"
        )

    def deliver(self, attempts: Sequence[Attempt], seconds: Mapping[str, float]) -> None:
        """Write the measured numbers and the card into the timed folder, move it into the run folder, write the record.

        Args:
            attempts: all attempts of the target; the last confirmed one is this model.
            seconds: stage -> seconds spent on this model.
        """
        shared = self.shared
        result = self._result(attempts, seconds)
        values = asdict(result)
        told = (
            "target",
            "predicted_speedup",
            "measured_speedup",
            "latency_ms",
            "dense_latency_ms",
            "metric",
            "divergence",
            "kept_quality",
            *(("generation",) if result.generation else ()),
        )
        details = {
            **{name: values[name] for name in told},
            "quality_dtype": _dtype_name(torch.float32),
            "environment": shared.loaded.environment.to_dict(),
            "machine": machine(),
        }
        facts = ModelFacts(
            card_metadata(shared.loaded.recipe.model), _dtype_name(self.dtype), save_load.has_code(self.model)
        )
        save_load.describe(self.folder, details, card(shared.report, result, facts))
        save_load.replace_folder(shared.folder / result.path, self.folder)
        write_json(record_path(shared.context.folder, self.target), values)  # last: it says that the target is done
        shutil.rmtree(shared.context.folder / self.target.folder, ignore_errors=True)

    def _quality(self, model: nn.Module) -> tuple[Metric | None, Divergence]:
        """The metric of the task, if there is labelled data; and the divergence from the dense outputs."""
        shared, loaded, device = self.shared, self.shared.loaded, self.shared.loaded.recipe.device
        metric = None
        if shared.dense_score is not None:
            score = loaded.task.evaluate(model, shared.evaluation, device)  # pyright: ignore[reportArgumentType]
            metric = Metric(score.name, score.value, shared.dense_score.value)
        apart = divergence(model, loaded.task, loaded.data.roles.report.batches, shared.teacher_outputs, device)
        return metric, Divergence(loaded.task.divergence_name, apart)

    def _kept_quality(self) -> KeptQuality:
        """The share of the dense quality that is kept on the texts that are reported on, with its interval of 95 %."""
        shared, batches = self.shared, self.shared.loaded.data.roles.report.batches
        found = kept_quality(shared.loaded, self.model, batches, shared.dense_answers_to_report, confidence=0.975)
        tries = read_tries(shared.context.folder / "keep.json")
        assert isinstance(self.target, Keep)
        chosen = chosen_try(tries, shared.table.largest_speedup, self.target)
        tried = [one for one in sorted(tries, key=lambda one: one.speedup) if one.texts]
        fraction = found.fraction
        return KeptQuality(found.measure, fraction.value, fraction.low, fraction.high, found.texts, chosen, tried)

    def _result(self, attempts: Sequence[Attempt], seconds: Mapping[str, float]) -> ModelResult:
        shared, target = self.shared, self.target
        structure = shared.loaded.structure
        attempt = [attempt for attempt in attempts if attempt.confirmed is not None][-1]
        sparsity = float(shared.parameters.sparsity(attempt.allocation))
        met = attempt.met
        if isinstance(target, Sparsity):
            met = sparsity + (1 - sparsity) * self.zeros >= target.value - 1e-9
        elif self.kept_quality is not None:
            met = self.kept_quality.keeps(target.value)
        return ModelResult(
            target=target.value,
            predicted_speedup=attempt.predicted,
            measured_speedup=_interval(attempt.confirmed),
            latency_ms=attempt.latency_ms,
            dense_latency_ms=attempt.dense_latency_ms,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            dense_parameters=sum(parameter.numel() for parameter in shared.teacher.parameters()),
            sparsity=sparsity,
            metric=self.metric,
            divergence=self.divergence,
            seconds=dict(seconds),
            path=target.folder,
            kept=_kept(structure, attempt.allocation),
            met=met,
            attempts=attempt.number,
            sparsity_with_norms=1 - self.layer_parameters / layer_size(shared.teacher, structure),
            expected_sparsity=shared.fitted.expected_sparsity(target.folder),
            zeros=self.zeros,
            trials=[_trial(one) for one in attempts],
            kept_quality=self.kept_quality,
            start=shared.start,
            generation=_generation(attempt, shared),
        )


def _generation(attempt: Attempt, shared: TargetContext) -> GenerationResult | None:
    """The parts of the confirmed generations, with the share of the output head by the latency table."""
    pruned, dense, table = attempt.generation, attempt.dense_generation, shared.table
    if pruned is None or dense is None:
        return None
    environment, head = shared.loaded.environment, table.output_head_ms
    return GenerationResult(
        environment.prompt_length,
        environment.new_tokens,
        pruned.first_token_ms,
        dense.first_token_ms,
        pruned.per_token_ms,
        dense.per_token_ms,
        pruned.cache_bytes,
        dense.cache_bytes,
        None if head is None else head / table.dense_ms,
    )


def _interval(speed: Speed | None) -> Interval | None:
    return None if speed is None else Interval(speed.median, speed.low, speed.high, list(speed.processes))


def _trial(attempt: Attempt) -> Trial:
    return Trial(
        dict(attempt.allocation),
        attempt.predicted,
        _interval(attempt.steering),
        _interval(attempt.confirmed),
        attempt.met,
    )


def _kept(structure: Structure, allocation: Mapping[str, int]) -> dict[str, Kept]:
    kept = {
        group.name: Kept(group.kind, group.size, allocation[group.name])
        for group in structure
        if not group.instead_of or allocation[group.name] < group.size  # a matrix of full rank is not split
    }
    if stream := structure.stream:
        kept[stream.name] = Kept(Kind.HIDDEN, stream.size, allocation[stream.name])
    return kept


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
