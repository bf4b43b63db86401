"""The little SVG the page needs: elements, scales, ticks and a titled frame. Text is escaped by markupsafe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Plot", "Scale", "element", "frame", "marker", "path", "ticks"]

SHAPES = 6


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """``element("circle", r=3, class_="dot")`` -> ``<circle r="3" class="dot"></circle>``."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _number(value))
        for name, value in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, inside)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def path(points: Iterable[tuple[float, float]]) -> str:
    """The ``d`` of a line through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def frame(name: str, title: str, description: str, width: float, height: float, *children: str) -> Markup:
    """An ``<svg>`` that a screen reader announces by its title and description."""
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
    """One of six shapes of about the same area, so that runs differ by more than their colour."""
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
    """Values ``low .. high`` onto pixels ``start .. end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Round values inside ``low .. high``, about ``about`` of them; ``whole``: of counts."""
    rough = (high - low) / max(about, 1)
    power = 10 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    if whole:
        step = max(step, 1.0)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """Two axes and what hangs on them.

    Args:
        x, y: the scales; ``y.start`` is the bottom.
        x_label, y_label: with units.
        x_suffix: after each tick of x.
        x_whole: x is a count.
    """

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    x_suffix: str = ""
    x_whole: bool = False

    def axes(self) -> list[Markup]:
        """Grid lines, tick labels and axis labels."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        drawn = [element("text", self.y_label, x=0, y=top - 14, class_="axis")]
        rows = ticks(self.y.low, self.y.high, max(2, int((bottom - top) / 44)))
        for value, text in zip(rows, _written(rows), strict=True):
            y = self.y(value)
            drawn.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            drawn.append(element("text", text, x=left - 8, y=y + 4, class_="tick end"))
        columns = ticks(self.x.low, self.x.high, max(2, int((right - left) / 54)), whole=self.x_whole)
        drawn.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="base"))
        for value, text in zip(columns, _written(columns), strict=True):
            x = self.x(value)
            drawn.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="base"))
            drawn.append(element("text", text + self.x_suffix, x=x, y=bottom + 19, class_="tick mid"))
        drawn.append(element("text", self.x_label, x=right, y=bottom + 38, class_="axis end"))
        return drawn


def _written(values: Sequence[float]) -> list[str]:
    """With as many decimals as the step between them needs."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    if step and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return [f"{value:,.{decimals}f}" for value in values]
