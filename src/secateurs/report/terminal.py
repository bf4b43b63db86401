"""The results of a run as a table for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from secateurs.report import formatting
from secateurs.report.formatting import MISSING, quality
from secateurs.report.generation_rows import generation_rows, output_head
from secateurs.report.knee import KNEE, asked, knee
from secateurs.report.values import Interval, Metric, ModelResult, RunResult

__all__ = ["table"]

STYLES = {"met": "green", "missed": "bold red", "not verified": "yellow"}


def table(report: RunResult) -> Table:
    """Draw the results of one run.

    Args:
        report: the run.

    Returns:
        A table with one row per pruned model, in the order of their targets, and the dense model as the last row.
    """
    models = sorted(report.models, key=lambda result: result.target)
    metric = next((result.metric for result in models if result.metric is not None), None)
    divergence = next((result.divergence for result in models if result.divergence is not None), None)
    drawn = Table(title=Text(report.name), title_justify="left", header_style="bold")
    sparsities = formatting.sparsity_columns(models)
    parts = ("first token", "per token", "cache") if any(result.generation for result in models) else ()
    for heading in ("asked", "predicted", "measured (95 %)", "latency", *parts, "parameters", *sparsities):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for measure in (metric, divergence):
        if measure is not None:
            drawn.add_column(Text(formatting.readable(measure.name)), justify="right", no_wrap=True)
    keeps = any(result.kept_quality is not None for result in models)
    if keeps:
        drawn.add_column("kept (95 %)", justify="right", no_wrap=True)
    drawn.add_column("target", no_wrap=True)
    drawn.add_column("folder", overflow="fold")
    for result in models:
        cells = [
            asked(report, result),
            formatting.speedup(result.predicted_speedup),
            _measured(result.measured_speedup),
            formatting.ms(result.latency_ms),
            *(pruned for pruned, _ in (generation_rows(result.generation) if result.generation else {}).values()),
            formatting.parameters(result.parameters),
            *(_sparsity(result, field) for field in sparsities.values()),
        ]
        if metric is not None:
            cells.append(_metric(result.metric))
        if divergence is not None:
            cells.append(quality(result.divergence.value) if result.divergence else MISSING)
        if keeps:
            cells.append(MISSING if result.kept_quality is None else str(result.kept_quality))
        verdict = formatting.verdict(result)
        drawn.add_row(*map(Text, cells), Text(verdict, STYLES[verdict]), Text(result.path))
    if models:
        dense = models[0]
        latency, parameters = formatting.ms(dense.dense_latency_ms), formatting.parameters(dense.dense_parameters)
        generated = [own for _, own in (generation_rows(dense.generation) if dense.generation else {}).values()]
        cells = ["dense", "", "1.00x", latency, *generated, parameters, *("0 %" for _ in sparsities)]
        cells += (
            ([quality(metric.dense)] if metric else []) + (["0"] if divergence else []) + (["100 %"] if keeps else [])
        )
        drawn.add_section()
        drawn.add_row(*map(Text, cells), style="dim")
    lines: list[str] = []
    if divergence is not None:
        lines.append(f"{formatting.readable(divergence.name)}: from the dense model, on {report.reported_on}")
        lines += [KNEE] if knee(report) is not None else []
    lines += [head] if (head := output_head(models)) else []
    lines += [report.minutes.sentence()] if report.minutes is not None else []
    if lines:
        drawn.caption = Text("\n".join(lines))
        drawn.caption_justify = "left"
    return drawn


def _measured(speedup: Interval | None) -> str:
    return MISSING if speedup is None else f"{formatting.speedup(speedup.median)} ({formatting.interval(speedup)})"


def _metric(metric: Metric | None) -> str:
    return MISSING if metric is None else f"{quality(metric.value)} ({formatting.difference(metric)})"


def _sparsity(result: ModelResult, field: str) -> str:
    if field == "sparsity":
        return formatting.sparsity_and_zeros(result)
    return formatting.sparsity(getattr(result, field))
