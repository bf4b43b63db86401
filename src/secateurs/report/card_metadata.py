"""The metadata at the head of a model card, by which the Hugging Face Hub finds, lists and compares the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from secateurs.report.formatting import readable
from secateurs.report.values import ModelResult, RunResult

__all__ = ["ModelFacts", "library", "metadata"]

INHERITED = ("license", "license_name", "license_link", "language")
"""Metadata of the dense model's card that is true of the pruned model too."""

METRICS = {"entity_f1": "f1", "spearman": "spearmanr", "ndcg@10": "ndcg_at_10", "rougeL": "rouge"}
"""Name of a metric -> its identifier on the Hub, where the two differ."""


@dataclass(frozen=True)
class ModelFacts:
    """What a card says that is not in the report.

    Args:
        dense_card: metadata of the dense model's own card; empty if it has none.
        dtype: dtype in which the weights are saved.
        has_code: whether code lies beside the weights.
    """

    dense_card: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    has_code: bool = True


def metadata(report: RunResult, result: ModelResult, facts: ModelFacts) -> ModelCardData:
    """The metadata of one pruned model.

    Args:
        report: the run.
        result: the model.
        facts: what is known of the dense model and of the folder.
    """
    dense = facts.dense_card
    base = report.model if _on_hub(report.model) else dense.get("base_model")
    data = _data_name(report)
    datasets = [*_as_list(dense.get("datasets")), *([data.partition(":")[0]] if data and _on_hub(data) else [])]
    evaluations = _evaluations(report, result, data)
    return ModelCardData(
        **{name: dense[name] for name in INHERITED if dense.get(name) is not None},
        library_name=library(report, facts),
        base_model=base or None,
        base_model_relation="finetune" if base else None,
        datasets=list(dict.fromkeys(datasets)) or None,
        pipeline_tag=_pipeline_tag(report, facts),
        tags=["secateurs", "pruning"],
        model_name=f"{report.model_name} {result.path}" if evaluations else None,
        eval_results=evaluations,
    )


def library(report: RunResult, facts: ModelFacts) -> str:
    """Name of the library that the model is made for: that of the dense model."""
    embedder = "sentence-transformers" if report.pipeline_tag == "sentence-similarity" else "transformers"
    return str(facts.dense_card.get("library_name") or embedder)


def _pipeline_tag(report: RunResult, facts: ModelFacts) -> str | None:
    """Name of the task on the Hub. The dense model's card knows a reranker from a classifier."""
    ranks = facts.dense_card.get("pipeline_tag") == "text-ranking" and report.pipeline_tag == "text-classification"
    return "text-ranking" if ranks else report.pipeline_tag or None


def _evaluations(report: RunResult, result: ModelResult, data: str | None) -> list[EvalResult] | None:
    """The metric that was measured, for the ``model-index`` of the card."""
    metric = result.metric
    if metric is None or data is None or not math.isfinite(metric.value):
        return None
    name, _, config = data.partition(":") if _on_hub(data) else (Path(data).name or data, "", "")
    return [
        EvalResult(
            task_type=report.pipeline_tag or report.task,
            dataset_type=name,
            dataset_name=f"{name} ({config})" if config else name,
            dataset_config=config or None,
            metric_type=METRICS.get(metric.name, metric.name.replace(" ", "_")),
            metric_name=readable(metric.name),
            metric_value=metric.value,
        )
    ]


def _data_name(report: RunResult) -> str | None:
    """The source of the data in the recipe: a path or a hub id."""
    data = report.recipe.get("data")
    return data if isinstance(data, str) and data else None


def _as_list(value: Any) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else [value] if isinstance(value, str) else []


def _on_hub(name: str) -> bool:
    """Whether the name has the form of a hub name, with or without ``:config``, and is no local path."""
    return (
        re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", name) is not None
        and not name.startswith(".")
        and not Path(name).exists()
    )
