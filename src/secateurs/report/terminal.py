"""The results of a run as a table in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from secateurs.report import figures
from secateurs.report.values import Facts

__all__ = ["table"]

STYLES = {"met": "green", "missed": "bold red", "not judged": "yellow"}


def table(report: Facts) -> Table:
    """One row a model, the dense model last."""
    models = sorted(report.models, key=lambda result: result.target)
    metric = next((result.metric for result in models if result.metric is not None), None)
    divergence = next((result.divergence for result in models if result.divergence is not None), None)
    drawn = Table(title=Text(report.name), title_justify="left", header_style="bold")
    sparsities = figures.sparsities(models)
    for heading in ("asked", "predicted", "measured (95 %)", "latency", "parameters", *sparsities):
        drawn.add_column(heading, justify="right", no_wrap=True)
    if metric is not None:
        drawn.add_column(Text(figures.words(metric.name)), justify="right", no_wrap=True)
    if divergence is not None:
        drawn.add_column(Text(figures.words(divergence.name)), justify="right", no_wrap=True)
    drawn.add_column("target", no_wrap=True)
    drawn.add_column("folder", overflow="fold")
    for result in models:
        measured = result.measured_speedup
        cells = [
            figures.asked(report, result),
            figures.speedup(result.predicted_speedup),
            f"{figures.speedup(measured.median)} ({figures.span(measured)})" if measured else figures.MISSING,
            figures.ms(result.latency_ms),
            figures.parameters(result.parameters),
            *(
                figures.removed(result) if field == "sparsity" else figures.sparsity(getattr(result, field))
                for field in sparsities.values()
            ),
        ]
        if metric is not None:
            own = result.metric
            cells.append(f"{figures.quality(own.value)} ({figures.difference(own)})" if own else figures.MISSING)
        if divergence is not None:
            cells.append(figures.quality(result.divergence.value) if result.divergence else figures.MISSING)
        verdict = figures.verdict(result)
        drawn.add_row(*map(Text, cells), Text(verdict, STYLES[verdict]), Text(result.path))
    if models:
        dense = models[0]
        cells = [
            "dense",
            "",
            "1.00x",
            figures.ms(dense.dense_latency_ms),
            figures.parameters(dense.dense_parameters),
        ]
        cells += (
            ["0 %" for _ in sparsities]
            + ([figures.quality(metric.dense)] if metric else [])
            + (["0"] if divergence else [])
        )
        drawn.add_section()
        drawn.add_row(*map(Text, cells), style="dim")
    return drawn
