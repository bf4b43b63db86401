"""Which model of a run the report shows first, and the line that sums it up."""

from __future__ import annotations

from secateurs.report.formatting import interval, parameters_of_dense, percent, quality, readable, speedup
from secateurs.report.values import Metric, ModelResult, RunResult

__all__ = ["headline", "highlight", "meets_target_and_quality"]

MAX_RELATIVE_LOSS = 0.01
"""Largest loss of the metric, relative to the dense model, with which a model still counts as good."""


def highlight(report: RunResult) -> ModelResult | None:
    """The model that the report shows first.

    Returns:
        The model with the highest target among those for which ``meets_target_and_quality`` holds; otherwise the model
        with the lowest target; ``None`` for a report without models.
    """
    by_target = sorted(report.models, key=lambda result: result.target)
    good = [result for result in by_target if meets_target_and_quality(report, result)]
    return good[-1] if good else next(iter(by_target), None)


def meets_target_and_quality(report: RunResult, result: ModelResult) -> bool:
    """Whether the model meets its target and its metric is at most 1 % worse than the dense one."""
    return bool(result.met) and result.metric is not None and _relative_loss(report, result.metric) <= MAX_RELATIVE_LOSS


def headline(result: ModelResult) -> str:
    """One model in one line: ``2.01x speed-up (95 % interval 1.99-2.03), accuracy 0.881 (dense 0.892)``."""
    measured = result.measured_speedup
    if measured is None:
        parts = [f"{percent(result.sparsity)} sparsity ({parameters_of_dense(result)} parameters)"]
    else:
        parts = [f"{speedup(measured.median)} speed-up (95 % interval {interval(measured)})"]
    if result.metric is not None:
        metric = result.metric
        parts.append(f"{readable(metric.name)} {quality(metric.value)} (dense {quality(metric.dense)})")
    elif result.divergence is not None:
        parts.append(f"{readable(result.divergence.name)} {quality(result.divergence.value)} from the dense model")
    return ", ".join(parts)


def _relative_loss(report: RunResult, metric: Metric) -> float:
    """How much worse the metric is than the dense one, as a fraction of the dense one; negative if it is better."""
    step = metric.dense - metric.value if report.higher_is_better else metric.value - metric.dense
    return step / abs(metric.dense) if metric.dense else step
