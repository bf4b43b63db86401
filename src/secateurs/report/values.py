"""The result of one run as frozen data: the fields of ``report.json``.

Field names carry the unit. ``None`` means "was not measured", never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from secateurs.report.generation import GenerationResult
from secateurs.report.kept_quality import KeptQuality
from secateurs.report.minutes import Minutes
from secateurs.structure.cut import Kind

__all__ = [
    "CONFIG",
    "FORMAT",
    "Divergence",
    "Interval",
    "Kept",
    "Metric",
    "ModelResult",
    "RunResult",
    "Trial",
    "Texts",
    "labels",
]

FORMAT = 1
CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, config=CONFIG)
class Interval:
    """A median with its 95 % interval: ``low`` to ``high``.

    Args:
        median: estimate of the median over processes.
        low: lower end of the interval.
        high: upper end of the interval.
        processes: the value in each process that was timed; empty in reports of older versions, which timed in one process.
    """

    median: float
    low: float
    high: float
    processes: list[float] = field(default_factory=list)


@dataclass(frozen=True, config=CONFIG)
class Trial:
    """One attempt to meet a target.

    Args:
        kept: group name -> kept units.
        predicted_speedup: speed-up by the latency table.
        steering: measured speed-up of these shapes that steered the next attempt; ``None`` if none was timed.
        confirmed: measured speed-up of the saved model; ``None`` if no model was built.
        met: whether the confirmation meets the target; ``None`` if no model was built or timings cannot tell.
    """

    kept: dict[str, int]
    predicted_speedup: float
    steering: Interval | None
    confirmed: Interval | None
    met: bool | None


@dataclass(frozen=True, config=CONFIG)
class Metric:
    """A quality measure on labelled data.

    Args:
        name: name of the metric.
        value: metric of the pruned model.
        dense: metric of the dense model.
    """

    name: str
    value: float
    dense: float


@dataclass(frozen=True, config=CONFIG)
class Divergence:
    """Distance between the outputs of the pruned and of the dense model on held-out data; 0 for the dense model.

    Args:
        name: name of the distance, ``Task.divergence_name``.
        value: the distance; 0 means equal outputs.
    """

    name: str
    value: float


@dataclass(frozen=True, config=CONFIG)
class Texts:
    """The texts of one role: ``fit``, ``search``, ``accept``, ``report``, or ``train``.

    Args:
        role: name of the role.
        use: what was done on the texts.
        rows: number of texts.
        tokens: number of tokens; ``None`` for training rows, which are tokenized when they are read.
        split: name of the split that the texts come from.
    """

    role: str
    use: str
    rows: int
    tokens: int | None
    split: str


@dataclass(frozen=True, config=CONFIG)
class Kept:
    """The kept count of one group.

    Args:
        kind: kind of the units.
        size: units of the dense model.
        kept: units of the pruned model; 0 if the sub-block is removed.
    """

    kind: Kind
    size: int
    kept: int


@dataclass(frozen=True, config=CONFIG)
class ModelResult:
    """One pruned model.

    Args:
        target: the target of the user: a speed-up, or a sparsity or a share of the quality as a fraction.
        predicted_speedup: speed-up by the latency table, before the model was built; ``None`` without a table.
        measured_speedup: dense ms / pruned ms of the saved folders, timed in fresh processes after the model was finished.
        latency_ms: median time of one forward pass, or of a generation, of the pruned model, in the same processes.
        dense_latency_ms: the same of the dense model.
        parameters: all parameters of the pruned model, embeddings and head included.
        dense_parameters: all parameters of the dense model.
        sparsity: removed fraction of the prunable parameters: matrices and biases of attention and feed-forward blocks.
        metric: quality on labelled data; ``None`` without labelled data.
        divergence: distance from the outputs of the dense model on held-out data.
        seconds: stage -> seconds spent on this model.
        path: folder of the model, relative to the report.
        kept: group name -> kept count of the group.
        met: whether the model meets its target; ``None`` if the latency table comes from another machine or environment,
            so that timings of this run cannot verify a speed-up.
        attempts: number of the attempt that this model is, from 1; 1 if the first prediction was right.
        sparsity_with_norms: removed fraction of all parameters of the layers, norms included, as CoFi's authors evaluate.
        expected_sparsity: expectation of ``sparsity`` under the probabilities of learned gates; ``None`` without gates.
        zeros: fraction of the remaining prunable parameters that are 0. Zeros take as much memory and time as other
            values.
        trials: all attempts to meet the target, in order.
        kept_quality: the share of the dense quality that is kept, if the target is such a share.
        start: folder of the model that was pruned further, relative to the report; empty = the dense model.
        generation: what the generation is made of; ``None`` in the regime ``"throughput"``.
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
    trials: list[Trial] = field(default_factory=list)
    kept_quality: KeptQuality | None = None
    start: str = ""
    generation: GenerationResult | None = None

    @property
    def has_zeros(self) -> bool:
        """Whether at least 1 % of the remaining prunable parameters are 0. A few trained weights are 0 by chance."""
        return self.zeros >= 0.01


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, config=CONFIG)
class RunResult:
    """The fields of a report.

    Args:
        name: title of the run.
        model: name or folder of the dense model.
        method: name of the pruning method.
        task: name of the task.
        environment: environment of the timings, ``Environment.to_dict()``.
        machine: processor, cores, GPU and system of the machine.
        versions: versions of secateurs, torch, transformers and python.
        seeds: every seed of the run.
        recipe: the full recipe, sufficient to repeat the run.
        data: source and number of examples of the data, ``TaskData.description``.
        models: one entry per target.
        preset: name of the preset of the method.
        commit: git commit of the code that ran, if it is known.
        command: command line of the run, if there was one.
        created: ISO 8601 time.
        latency_table: ``LatencyTable.to_dict()``.
        notes: warnings, e.g. of noisy timings.
        target_kind: unit of the targets of the models.
        higher_is_better: direction of the metric, ``Score.higher_is_better``.
        auto_class: name of the transformers class that loads the models, ``Task.auto_class``.
        pipeline_tag: name of the task on the Hugging Face Hub.
        texts: the texts of every role, and what was done on them.
        minutes: the time of the run, and what was chosen to fit it; ``None`` unless it was asked for.
        format: version of the file format.
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
    target_kind: Literal["speedup", "sparsity", "keep"] = "speedup"
    higher_is_better: bool = True
    auto_class: str = "AutoModel"
    pipeline_tag: str | None = None
    texts: list[Texts] = field(default_factory=list)
    minutes: Minutes | None = None
    format: int = FORMAT

    @property
    def prediction_error(self) -> float | None:
        """Mean relative error of the predicted speed-ups, over the models with a verified target (0.03 = 3 %)."""
        errors = [
            abs(result.predicted_speedup / result.measured_speedup.median - 1)
            for result in self.models
            if result.measured_speedup is not None and result.predicted_speedup is not None and result.met is not None
        ]
        return sum(errors) / len(errors) if errors else None

    @property
    def reported_on(self) -> str:
        """The texts of the divergence: ``256 texts of validation``; ``held-out texts`` in reports that do not name them."""
        for texts in self.texts:
            if texts.role == "report":
                return (
                    f"{texts.rows} {texts.split}" if "texts" in texts.split else f"{texts.rows} texts of {texts.split}"
                )
        return "held-out texts"

    @property
    def model_name(self) -> str:
        """Short name of the dense model: ``name`` of the recipe, otherwise the last part of its name or folder."""
        return str(self.recipe.get("name") or self.model.rstrip("/").rsplit("/", 1)[-1])


def labels(reports: Sequence[RunResult]) -> list[str]:
    """One short label per run, all different.

    The label is the method; if methods repeat, the method and the model; if these repeat too, the title of the run,
    numbered where titles repeat.
    """
    schemes = (
        [report.method for report in reports],
        [f"{report.method}, {report.model_name}" for report in reports],
        [report.name for report in reports],
    )
    for scheme in schemes:
        if len(set(scheme)) == len(scheme):
            return scheme
    return [f"{name} ({number})" for number, name in enumerate(schemes[-1], start=1)]
