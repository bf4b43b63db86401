"""The two kinds of charts on the page: quality against speed-up, and the curves of the latency table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.table import LatencyTable
from secateurs.report.formatting import interval, percent, quality, readable, speedup
from secateurs.report.kept import PLURALS
from secateurs.report.knee import asked
from secateurs.report.svg import Plot, Scale, element, frame, marker, path
from secateurs.report.values import Interval, RunResult

__all__ = ["Chart", "latency_charts", "trade_offs"]

SIZES = ((340.0, 280.0), (680.0, 380.0), (1040.0, 420.0))
"""Width and height in pixels of a chart on small, medium and large screens."""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        title: caption of the chart.
        pictures: one SVG, or one SVG each for small, medium and large screens, so that text keeps its size.
    """

    title: str
    pictures: tuple[Markup, ...]


@dataclass(frozen=True)
class _Point:
    """One model in a chart.

    Args:
        run: number of the run.
        x: measured speed-up with its interval; or sparsity in percent, as an interval without width.
        y: metric or divergence.
        label: text beside the marker.
        tip: text that appears when the pointer rests on the marker.
    """

    run: int
    x: Interval
    y: float
    label: str
    tip: str


@dataclass(frozen=True)
class _Axis:
    """The quantity of the horizontal axis.

    Args:
        label: label of the axis.
        suffix: text after each tick label.
        dense: value of the dense model.
    """

    label: str
    suffix: str
    dense: float


SPEED = _Axis("measured speed-up", "x", 1.0)
SPARSITY = _Axis("sparsity of the prunable parameters", " %", 0.0)


def trade_offs(reports: Sequence[RunResult], names: Sequence[str]) -> list[Chart]:
    """Charts of quality against measured speed-up, or against sparsity if no model was timed.

    Args:
        reports: the runs, one colour and marker each.
        names: one label per run.

    Returns:
        One chart per metric; without labelled data, one chart per divergence.
    """
    models = [result for report in reports for result in report.models]
    timed = any(result.measured_speedup for result in models)
    labelled = any(result.metric for result in models)
    axis = SPEED if timed else SPARSITY
    points: dict[str, list[_Point]] = {}
    dense: dict[str, set[float]] = {}
    for run, report in enumerate(reports):
        for result in report.models:
            measure = result.metric if labelled else result.divergence
            x = (
                result.measured_speedup
                if timed
                else Interval(100 * result.sparsity, 100 * result.sparsity, 100 * result.sparsity)
            )
            if measure is None or x is None or not math.isfinite(measure.value):
                continue
            better = "higher" if labelled and report.higher_is_better else "lower"
            title = f"{readable(measure.name)} ({better} is better)"
            reached = f"{speedup(x.median)} ({interval(x)})" if timed else percent(result.sparsity)
            tip = f"{names[run]}, target {asked(report, result)}: {reached}, {quality(measure.value)}"
            dense.setdefault(title, set()).add(result.metric.dense if labelled and result.metric else 0.0)
            points.setdefault(title, []).append(_Point(run, x, measure.value, asked(report, result), tip))
    return [
        Chart(
            f"{'Speed-up' if timed else 'Sparsity'} against {title}",
            tuple(
                _trade_off(f"trade-{number}-{size[0]:g}", title, axis, found, sorted(dense[title]), size)
                for size in SIZES
            ),
        )
        for number, (title, found) in enumerate(points.items())
    ]


def _trade_off(
    name: str, title: str, axis: _Axis, points: list[_Point], dense: list[float], size: tuple[float, float]
) -> Markup:
    width, height = size
    values = [point.y for point in points] + dense
    low, high = min(values), max(values)
    # The axis spans at least 4 % of the largest value: a small loss must not fill the chart.
    least = 0.04 * abs(high) or 1.0
    room = 0.12 * (high - low) + max(0.0, least - (high - low)) / 2
    right = max(point.x.high for point in points)
    left = min(axis.dense, *(point.x.low for point in points))
    margin = (right - left or 1.0) * 0.05
    plot = Plot(
        Scale(left - margin, right + 2.5 * margin, 52, width - 12),
        Scale(low - room, high + room, height - 46, 30),
        axis.label,
        title.split(" (")[0],
        x_suffix=axis.suffix,
    )
    falling = sum(point.y for point in points) < len(points) * sum(dense) / len(dense)
    runs = sorted({point.run for point in points})
    drawn = plot.axes()
    for value in dense:
        y = plot.y(value)
        drawn.append(element("line", x1=plot.x.start, x2=plot.x.end, y1=y, y2=y, class_="reference"))
    for run in runs:
        chosen = sorted((point for point in points if point.run == run), key=lambda point: point.x.median)
        start = (plot.x(axis.dense), plot.y(dense[0])) if len(dense) == 1 and chosen[0].x.median > axis.dense else None
        drawn.append(element("g", *_run(plot, chosen, start, len(runs) == 1, falling), class_=f"run-{run % 6}"))
    for value in dense:
        x, y = plot.x(axis.dense), plot.y(value)
        drawn.append(element("circle", element("title", f"dense: {quality(value)}"), cx=x, cy=y, r=5, class_="dense"))
        drawn.append(_note(f"dense {quality(value)}", plot.x.end, y - 8, "end"))
    description = "; ".join([*(f"dense: {quality(value)}" for value in dense), *(point.tip for point in points)])
    return frame(name, f"{axis.label} against {title}", f"{description}.", width, height, *drawn)


def _note(text: str, x: float, y: float, anchor: str = "") -> Markup:
    return element("text", text, x=x, y=y, class_=f"note {anchor}".strip())


def _run(
    plot: Plot, points: list[_Point], start: tuple[float, float] | None, labelled: bool, falling: bool
) -> Iterator[Markup]:
    """The line, error bars, markers and labels of one run.

    Args:
        plot: the axes.
        points: the models of the run, in the order of ``x``.
        start: position of the dense model in pixels, if the line starts there.
        labelled: whether markers have labels.
        falling: whether quality falls along x. A label is then above its marker, otherwise below it: a monotone line
            does not cross it.
    """
    spots = [(plot.x(point.x.median), plot.y(point.y)) for point in points]
    yield element("path", d=path([start, *spots] if start else spots), class_="line")
    last = (-math.inf, 0.0)
    for point, (x, y) in zip(points, spots, strict=True):
        low, high = plot.x(point.x.low), plot.x(point.x.high)
        if high > low:
            caps = f"M{low:.1f} {y - 8:.1f}v16M{high:.1f} {y - 8:.1f}v16"
            yield element("path", d=f"M{low:.1f} {y:.1f}H{high:.1f}{caps}", class_="error")
        yield marker(point.run, x, y, 4.5, element("title", point.tip))
        if labelled and (x - last[0] > 40 or abs(y - last[1]) > 16):
            yield _note(point.label, x + 9, y + (-9 if falling else 19))
            last = (x, y)


def latency_charts(report: RunResult, number: int) -> list[Chart]:
    """One chart per curve of the latency table.

    Args:
        report: the run.
        number: number of the run on the page, for unique element ids.

    Returns:
        The charts; none without a latency table.
    """
    if report.latency_table is None:
        return []
    table = LatencyTable.from_dict(report.latency_table)
    kinds = {name: str(kept.kind) for result in report.models for name, kept in result.kept.items()}
    charts = []
    for index, (name, curve) in enumerate(table.curves.items()):
        groups = [group for group, curve_name in table.groups.items() if curve_name == name]
        kind = next((kinds[group] for group in groups if group in kinds), None)
        label = f"{PLURALS[kind]} kept" if kind else "units kept"
        heading = f"{name} ({len(groups)} group{'s' if len(groups) != 1 else ''})"
        charts.append(Chart(heading, (_curve(f"curve-{number}-{index}", heading, label, curve),)))
    return charts


def _curve(name: str, title: str, label: str, curve: LatencyCurve) -> Markup:
    width, height = 340.0, 240.0
    raw = curve.raw_ms if len(curve.raw_ms) == len(curve.units) else curve.ms
    spread = curve.spread if len(curve.spread) == len(curve.units) else (0.0,) * len(curve.units)
    top = max([*curve.ms, *(value * (1 + part) for value, part in zip(raw, spread, strict=True))]) or 1.0
    plot = Plot(
        Scale(0, max(curve.units[-1], 1), 52, width - 12),
        Scale(0, top * 1.08, height - 46, 30),
        label,
        "ms in one forward pass",
        x_integers=True,
    )
    drawn = plot.axes()
    line = [(plot.x(unit), plot.y(value)) for unit, value in zip(curve.units, curve.ms, strict=True)]
    if len(line) > 1:  # latency jumps between 0 units and the first measured count, so no line joins them
        drawn.append(element("path", d=path(line[1:]), class_="line"))
    for unit, value, part in zip(curve.units[1:], raw[1:], spread[1:], strict=True):
        x, y = plot.x(unit), plot.y(value)
        high, low = plot.y(value * (1 + part)), plot.y(value * (1 - part))
        drawn.append(element("path", d=f"M{x:.1f} {low:.1f}V{high:.1f}", class_="error"))
        drawn.append(marker(0, x, y, 3, element("title", f"{unit} kept: {value:.4g} ms ± {100 * part:.1f} %")))
    drawn.append(marker(0, *line[0], 4, element("title", "removed: 0 ms"), class_="hollow"))
    description = ", ".join(f"{unit}: {value:.4g} ms" for unit, value in zip(curve.units, curve.ms, strict=True))
    return frame(
        name, f"Latency of {title}", f"{label}: {description}.", width, height, element("g", *drawn, class_="run-0")
    )
