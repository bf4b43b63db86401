"""The HTML page of one or several runs: one self-contained file without scripts and without network access."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from secateurs.report import formatting
from secateurs.report.charts import Chart, latency_charts, trade_offs
from secateurs.report.generation_rows import generation_rows, output_head, timed_unit, what_is_added
from secateurs.report.headline import headline, highlight, meets_target_and_quality
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.knee import KNEE, asked, knee
from secateurs.report.snippets import loading_code, recipe_yaml
from secateurs.report.svg import marker
from secateurs.report.values import Divergence, Metric, ModelResult, RunResult, labels

__all__ = ["render"]

MACHINE = ("processor", "cores", "gpu", "system")
"""The entries of ``RunResult.machine`` that the page lists first."""


@dataclass(frozen=True)
class _Run:
    """One run in the form that the templates use.

    Args:
        number: position on the page; selects the colour and the marker.
        label: short name, unique on the page.
        report: the run.
        models: its models in the order of their targets.
        provenance: heading -> name -> value, of the section on the origin of the numbers.
        stages: names of the timed stages.
        charts: charts of the latency table.
        recipe: the recipe as YAML.
    """

    number: int
    label: str
    report: RunResult
    models: tuple[ModelResult, ...]
    provenance: dict[str, dict[str, str]]
    stages: tuple[str, ...]
    charts: list[Chart]
    recipe: str


def render(reports: Sequence[RunResult]) -> str:
    """Draw one run, or several runs side by side, as one page.

    Args:
        reports: the runs, at least one.

    Returns:
        A complete HTML document.

    Raises:
        ValueError: ``reports`` is empty.
    """
    if not reports:
        raise ValueError("the page needs at least one report")
    names = labels(reports)
    runs = [_run(number, *pair) for number, pair in enumerate(zip(names, reports, strict=True))]
    best = highlight(reports[0])
    several = len(reports) > 1
    return _template().render(
        runs=runs,
        several=several,
        best=best,
        title=_title(reports, best),
        notes=_notes(runs),
        trade_offs=trade_offs(reports, names),
        good=best is not None and meets_target_and_quality(reports[0], best),
        timed=any(result.measured_speedup for report in reports for result in report.models),
        keeps=any(result.kept_quality for report in reports for result in report.models),
        metrics=_names(result.metric for report in reports for result in report.models),
        divergences=_names(result.divergence for report in reports for result in report.models),
        sparsities=formatting.sparsity_columns([result for report in reports for result in report.models]),
        marker=marker,
        unbroken=_unbroken,
        formatting=formatting,
        headline=headline,
        asked=asked,
        knee_caption=KNEE if any(knee(report) for report in reports) else "",
        highlight=highlight,
        kept_map=kept_map,
        kept_summary=kept_summary,
        loading_code=loading_code,
        generation_rows=generation_rows,
        output_head=output_head,
        timed_unit=timed_unit,
        what_is_added=what_is_added,
    )


def _names(measures: Iterable[Metric | Divergence | None]) -> list[str]:
    """The different names of the metrics or divergences, in readable form."""
    return list(dict.fromkeys(formatting.readable(measure.name) for measure in measures if measure is not None))


def _unbroken(text: str) -> Markup:
    """Escape the text and keep numbers and their units on one line."""
    together = rf"[\d.]+(?:{formatting.DASH}[\d.]+\)?| %|x speed-up)"
    return Markup(re.sub(together, r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _title(reports: Sequence[RunResult], best: ModelResult | None) -> str:
    if len(reports) > 1:
        models = dict.fromkeys(report.model_name for report in reports)
        return f"{len(reports)} runs compared: {formatting.join_with_and(list(models))}"
    return "No pruned models" if best is None else headline(best)


def _notes(runs: Sequence[_Run]) -> list[str]:
    """The warnings of every run, missed targets, and warnings that concern the comparison of runs."""
    notes = []
    if len({repr(sorted(run.provenance["Environment"].items())) for run in runs}) > 1:
        notes.append(
            "These runs were measured in different environments, so their speed-ups are not directly comparable."
        )
    if len({repr([run.report.machine.get(name) for name in MACHINE[:3]]) for run in runs}) > 1:
        notes.append("These runs were measured on different machines, so their speed-ups are not directly comparable.")
    for run in runs:
        notes += [f"{run.label}: {note}" if len(runs) > 1 else note for note in run.report.notes]
        if run.report.minutes is not None:
            notes.append((f"{run.label}: " if len(runs) > 1 else "") + run.report.minutes.sentence())
        for result in run.models:
            if result.kept_quality is not None:
                lead = f"{run.label}: " if len(runs) > 1 else ""
                notes.append(lead + result.kept_quality.sentence(result.target))
            elif result.met is False:
                lead = f"{run.label}: target" if len(runs) > 1 else "Target"
                reached = result.measured_speedup
                measured = f" (measured {formatting.speedup(reached.median)})" if reached else ""
                notes.append(f"{lead} {formatting.target(run.report, result)} was missed{measured}.")
    return notes


def _run(number: int, label: str, report: RunResult) -> _Run:
    models = tuple(sorted(report.models, key=lambda result: result.target))
    return _Run(
        number,
        label,
        report,
        models,
        _provenance(report),
        tuple(dict.fromkeys(stage for result in models for stage in result.seconds)),
        latency_charts(report, number),
        recipe_yaml(report),
    )


def _provenance(report: RunResult) -> dict[str, dict[str, str]]:
    """The origin of the numbers in lists: run, texts of every role, environment, machine and versions."""
    machine = {name: report.machine[name] for name in MACHINE if report.machine.get(name) is not None}
    machine |= {name: value for name, value in report.machine.items() if name not in {*MACHINE, *report.versions}}
    run = {
        "name": report.name,
        "model": report.model,
        "method": report.method,
        "task": report.task,
        "preset": report.preset,
        "data": report.data,
        "seeds": ", ".join(map(str, report.seeds)),
        "commit": report.commit or "unknown",
        "created": report.created,
    }
    if report.prediction_error is not None:
        run["prediction error"] = formatting.percent(report.prediction_error)
    texts = {
        each.role: f"{each.rows} texts{'' if each.tokens is None else f', {each.tokens} tokens'} ({each.split}): {each.use}"
        for each in report.texts
    }
    lists = {
        "Run": run,
        "Texts": texts,
        "Environment": report.environment,
        "Machine": machine,
        "Versions": report.versions,
    }
    return {
        heading: {formatting.readable(name): str(value) for name, value in values.items() if value is not None}
        for heading, values in lists.items()
    }


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("secateurs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
