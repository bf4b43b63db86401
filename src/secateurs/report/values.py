"""What one run did, as frozen data: the fields of ``report.json``.

Every number has its unit in its name; ``None`` means "was not measured", never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from secateurs.structure import Kind

__all__ = ["CONFIG", "FORMAT", "Divergence", "Facts", "Interval", "Kept", "Metric", "ModelResult", "labels"]

FORMAT = 1
CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, config=CONFIG)
class Interval:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, config=CONFIG)
class Metric:
    """A quality measure on labelled data, of the pruned and of the dense model."""

    name: str
    value: float
    dense: float


@dataclass(frozen=True, config=CONFIG)
class Divergence:
    """How far the pruned outputs are from the dense ones on held-out data; 0 for the dense model."""

    name: str
    value: float


@dataclass(frozen=True, config=CONFIG)
class Kept:
    """What is left of one group."""

    kind: Kind
    size: int
    kept: int


@dataclass(frozen=True, config=CONFIG)
class ModelResult:
    """One pruned model.

    Args:
        target: what was asked: a speed-up, or a sparsity as a fraction.
        predicted_speedup: by the latency table, before the model was built; ``None`` without a table.
        measured_speedup: dense ms / pruned ms, both timed in one process.
        latency_ms: median of a forward pass.
        dense_latency_ms: the same of the dense model.
        parameters: all of them, embeddings and head included.
        dense_parameters: the same of the dense model.
        sparsity: removed fraction of the prunable parameters: matrices and biases of attention and feed-forward blocks.
        metric: quality on labelled data.
        divergence: distance from the dense outputs on held-out data.
        seconds: stage -> seconds spent on this model.
        path: folder of the model, relative to the report.
        kept: group name -> what is left of it.
        met: whether the model keeps to the target it was asked for; ``None`` if timings here cannot judge that.
        attempts: searches until it did (1: the first prediction held).
        sparsity_with_norms: removed fraction of all parameters of the layers, norms included, as CoFi's authors evaluate.
        expected_sparsity: what ``sparsity`` was expected to be by learned gates; ``None`` where none were learned.
        zeros: part of the entries of what is left of the prunable parameters that are 0; they take memory and time like
            all others.
    """

    target: float
    predicted_speedup: float | None
    measured_speedup: Interval | None
    latency_ms: float | None
    dense_latency_ms: float | None
    parameters: int
    dense_parameters: int
    sparsity: float
    metric: Metric | None
    divergence: Divergence | None
    seconds: dict[str, float]
    path: str
    kept: dict[str, Kept]
    met: bool | None
    attempts: int
    sparsity_with_norms: float | None = None
    expected_sparsity: float | None = None
    zeros: float = 0.0

    @property
    def has_zeros(self) -> bool:
        """Enough of them to speak of: a trained weight is 0 now and then by chance."""
        return self.zeros >= 0.01


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, config=CONFIG)
class Facts:
    """The fields of a report.

    Args:
        name: what to call the run.
        model: name or folder of the dense model.
        method: the pruning method.
        task: the task.
        environment: ``Environment.to_dict()``.
        machine: processor, cores, system.
        versions: of secateurs, torch, transformers and python.
        seeds: every seed of the run.
        recipe: the whole recipe, enough to repeat the run.
        data: ``TaskData.description``: where the data come from, and how much there was.
        models: one entry a target.
        preset: the preset of the recipe.
        commit: of the code that ran, where it is known.
        command: the command line, where there was one.
        created: ISO 8601 time.
        latency_table: ``LatencyTable.to_dict()``.
        notes: warnings, such as a noisy machine.
        target_kind: what ``target`` of the models is.
        higher_is_better: the direction of the metric, ``Score.higher_is_better``.
        auto_class: the class of transformers that loads the models, ``Task.auto_class``.
        pipeline_tag: the Hub's name for the task.
        format: of this file.
    """

    name: str
    model: str
    method: str
    task: str
    environment: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    seeds: list[int]
    recipe: dict[str, Any]
    data: str
    models: list[ModelResult]
    preset: str | None = None
    commit: str | None = None
    command: str | None = None
    created: str = field(default_factory=_now)
    latency_table: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    target_kind: Literal["speedup", "sparsity"] = "speedup"
    higher_is_better: bool = True
    auto_class: str = "AutoModel"
    pipeline_tag: str | None = None
    format: int = FORMAT

    @property
    def prediction_error(self) -> float | None:
        """Mean relative error of the table's predictions for the models handed over (0.03 = 3 %)."""
        errors = [
            abs(result.predicted_speedup / result.measured_speedup.median - 1)
            for result in self.models
            if result.measured_speedup is not None and result.predicted_speedup is not None and result.met is not None
        ]
        return sum(errors) / len(errors) if errors else None

    @property
    def model_name(self) -> str:
        """The recipe's name for it, or the last part of its own name or folder."""
        return str(self.recipe.get("name") or self.model.rstrip("/").rsplit("/", 1)[-1])


def labels(reports: Sequence[Facts]) -> list[str]:
    """A short label for each run, all different: the method if that tells them apart, else more."""
    schemes = (
        [report.method for report in reports],
        [f"{report.method}, {report.model_name}" for report in reports],
        [report.name for report in reports],
    )
    for scheme in schemes:
        if len(set(scheme)) == len(scheme):
            return scheme
    return [f"{name} ({number})" for number, name in enumerate(schemes[-1], start=1)]
