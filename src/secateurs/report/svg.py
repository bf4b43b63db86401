"""SVG building blocks of the charts: elements, scales, ticks, axes and a titled frame. markupsafe escapes all text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Plot", "Scale", "element", "frame", "marker", "path", "ticks"]

SHAPES = 6


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """One SVG element: ``element("circle", r=3, class_="dot")`` -> ``<circle r="3" class="dot"></circle>``.

    Args:
        tag: name of the element.
        children: contents; plain strings are escaped.
        attributes: attributes; a trailing ``_`` is dropped and other ``_`` become ``-``.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _number(value))
        for name, value in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, inside)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def path(points: Iterable[tuple[float, float]]) -> str:
    """The attribute ``d`` of an SVG path: straight lines through the points, in pixels."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def frame(name: str, title: str, description: str, width: float, height: float, *children: str) -> Markup:
    """An ``<svg>`` element that screen readers announce by its title and description.

    Args:
        name: prefix of the element ids, unique on the page.
        title: short text for screen readers.
        description: text for screen readers with the values of the chart.
        width: width in pixels.
        height: height in pixels.
        children: contents; plain strings are escaped.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def marker(shape: int, x: float, y: float, size: float, *children: str, class_: str = "mark") -> Markup:
    """A marker of a run. Six shapes of about the same area distinguish runs without relying on colour.

    Args:
        shape: number of the run; shapes repeat after six.
        x: centre in pixels.
        y: centre in pixels.
        size: radius of the circle in pixels; the other shapes have about its area.
        children: contents, such as a ``<title>``.
        class_: CSS class.
    """
    shape %= SHAPES
    if shape == 0:
        return element("circle", *children, cx=x, cy=y, r=size, class_=class_)
    corners, turn = ((4, 1 / 8), (4, 0.0), (3, -1 / 4), (3, 1 / 4), (6, 0.0))[shape - 1]
    reach = size * {3: 1.45, 4: 1.25, 6: 1.1}[corners]
    angles = [2 * math.pi * (corner / corners + turn) for corner in range(corners)]
    outline = path((x + reach * math.cos(angle), y + reach * math.sin(angle)) for angle in angles)
    return element("path", *children, d=outline + "Z", class_=class_)


@dataclass(frozen=True)
class Scale:
    """Linear map from the values ``low .. high`` to the pixels ``start .. end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int, *, integers: bool = False) -> list[float]:
    """Tick values of an axis: round numbers inside ``low .. high``.

    Args:
        low: smallest value of the axis.
        high: largest value of the axis.
        about: approximate number of ticks.
        integers: whether ticks must be integers, for an axis of counts.
    """
    rough = (high - low) / max(about, 1)
    power = 10 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if integers else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    if integers:
        step = max(step, 1.0)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """Two axes with their labels.

    Args:
        x: horizontal scale.
        y: vertical scale; ``y.start`` is the bottom.
        x_label: label of the horizontal axis, with its unit.
        y_label: label of the vertical axis, with its unit.
        x_suffix: text after each tick label of the horizontal axis.
        x_integers: whether the horizontal axis is a count.
    """

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    x_suffix: str = ""
    x_integers: bool = False

    def axes(self) -> list[Markup]:
        """Grid lines, tick labels and axis labels."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        drawn = [element("text", self.y_label, x=0, y=top - 14, class_="axis")]
        rows = ticks(self.y.low, self.y.high, max(2, int((bottom - top) / 44)))
        for value, text in zip(rows, _tick_labels(rows), strict=True):
            y = self.y(value)
            drawn.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            drawn.append(element("text", text, x=left - 8, y=y + 4, class_="tick end"))
        columns = ticks(self.x.low, self.x.high, max(2, int((right - left) / 54)), integers=self.x_integers)
        drawn.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="base"))
        for value, text in zip(columns, _tick_labels(columns), strict=True):
            x = self.x(value)
            drawn.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="base"))
            drawn.append(element("text", text + self.x_suffix, x=x, y=bottom + 19, class_="tick mid"))
        drawn.append(element("text", self.x_label, x=right, y=bottom + 38, class_="axis end"))
        return drawn


def _tick_labels(values: Sequence[float]) -> list[str]:
    """Tick labels with as many decimals as the step between the ticks needs."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    if step and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return [f"{value:,.{decimals}f}" for value in values]
