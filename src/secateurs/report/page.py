"""The HTML page: one self-contained file for one run or several, without scripts and without the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from secateurs.report import figures
from secateurs.report.charts import Chart, latency_charts, trade_offs
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.svg import marker
from secateurs.report.values import Divergence, Facts, Metric, ModelResult, labels

__all__ = ["loading", "recipe_yaml", "render"]

_LISTED = ("processor", "cores", "gpu", "system")


@dataclass(frozen=True)
class _Run:
    """One report with what the template needs beside it."""

    number: int
    label: str
    report: Facts
    models: tuple[ModelResult, ...]
    facts: dict[str, dict[str, str]]
    stages: tuple[str, ...]
    charts: list[Chart]
    recipe: str


def render(reports: Sequence[Facts]) -> str:
    """Draw one run, or several side by side, as one page.

    Args:
        reports: at least one; a colour each.

    Returns:
        A whole HTML document.
    """
    if not reports:
        raise ValueError("nothing to draw: give at least one report")
    names = labels(reports)
    runs = [_run(number, *pair) for number, pair in enumerate(zip(names, reports, strict=True))]
    best = figures.highlight(reports[0])
    several = len(reports) > 1
    return _template().render(
        runs=runs,
        several=several,
        best=best,
        title=_title(reports, best),
        notes=_notes(runs),
        trade_offs=trade_offs(reports, names),
        picked=best is not None and figures.keeps(reports[0], best),
        timed=any(result.measured_speedup for report in reports for result in report.models),
        metrics=_names(result.metric for report in reports for result in report.models),
        divergences=_names(result.divergence for report in reports for result in report.models),
        sparsities=figures.sparsities([result for report in reports for result in report.models]),
        marker=marker,
        unbroken=_unbroken,
        figures=figures,
        kept_map=kept_map,
        kept_summary=kept_summary,
        loading=loading,
    )


def loading(report: Facts, path: str, *, remote_code: bool = False) -> str:
    """The lines of Python that load one model: with Secateurs installed, or with the code in the folder."""
    first = "" if remote_code else "import secateurs  # teaches transformers the pruned shapes\n"
    arguments = json.dumps(path, ensure_ascii=False) + (", trust_remote_code=True" if remote_code else "")
    if report.pipeline_tag == "sentence-similarity":
        return f"{first}from sentence_transformers import SentenceTransformer\nmodel = SentenceTransformer({arguments})"
    cls = report.auto_class
    return f"{first}from transformers import {cls}\nmodel = {cls}.from_pretrained({arguments})"


def recipe_yaml(report: Facts) -> str:
    """The recipe as a file that can be run again."""
    return yaml.safe_dump(_plain(report.recipe), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    """Tuples, paths and enumerations as YAML knows them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or type(value) in {bool, int, float, str} else str(value)


def _names(measures: Iterable[Metric | Divergence | None]) -> list[str]:
    """The names that occur, in words."""
    return list(dict.fromkeys(figures.words(measure.name) for measure in measures if measure is not None))


def _unbroken(text: str) -> Markup:
    """Escaped, with numbers and their units kept on one line."""
    together = rf"[\d.]+(?:{figures.DASH}[\d.]+\)?| %|x faster)"
    return Markup(re.sub(together, r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _title(reports: Sequence[Facts], best: ModelResult | None) -> str:
    if len(reports) > 1:
        models = dict.fromkeys(report.model_name for report in reports)
        return f"{len(reports)} runs compared: {figures.listed(list(models))}"
    return "No model was made" if best is None else figures.headline(best)


def _notes(runs: Sequence[_Run]) -> list[str]:
    """The warnings of every run, and those that only arise from putting runs side by side."""
    notes = []
    if len({repr(sorted(run.facts["Environment"].items())) for run in runs}) > 1:
        notes.append("These runs were measured in different environments: compare speed-ups with care.")
    if len({repr([run.report.machine.get(name) for name in _LISTED[:3]]) for run in runs}) > 1:
        notes.append("These runs were measured on different machines: compare speed-ups with care.")
    for run in runs:
        notes += [f"{run.label}: {note}" if len(runs) > 1 else note for note in run.report.notes]
        for result in run.models:
            if result.met is False:
                lead = f"{run.label}: target" if len(runs) > 1 else "Target"
                reached = result.measured_speedup
                measured = f" (measured {figures.speedup(reached.median)})" if reached else ""
                notes.append(f"{lead} {figures.asked(run.report, result)} was missed{measured}.")
    return notes


def _run(number: int, label: str, report: Facts) -> _Run:
    models = tuple(sorted(report.models, key=lambda result: result.target))
    return _Run(
        number,
        label,
        report,
        models,
        _facts(report),
        tuple(dict.fromkeys(stage for result in models for stage in result.seconds)),
        latency_charts(report, number),
        recipe_yaml(report),
    )


def _facts(report: Facts) -> dict[str, dict[str, str]]:
    """Where the numbers come from, in four lists."""
    machine = {name: report.machine[name] for name in _LISTED if report.machine.get(name) is not None}
    machine |= {name: value for name, value in report.machine.items() if name not in {*_LISTED, *report.versions}}
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
        run["prediction error"] = figures.percent(report.prediction_error)
    lists = {"Run": run, "Environment": report.environment, "Machine": machine, "Versions": report.versions}
    return {
        heading: {figures.words(name): str(value) for name, value in values.items() if value is not None}
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
