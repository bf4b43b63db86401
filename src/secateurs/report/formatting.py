"""How numbers and names are written on the page, on the card and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secateurs.report.values import Interval, Metric, ModelResult, RunResult

__all__ = [
    "DASH",
    "MISSING",
    "difference",
    "duration",
    "interval",
    "join_with_and",
    "ms",
    "parameters",
    "parameters_of_dense",
    "percent",
    "quality",
    "readable",
    "size",
    "sparsity",
    "sparsity_and_zeros",
    "sparsity_columns",
    "speedup",
    "target",
    "thousands",
    "verdict",
]

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MISSING = DASH
"""Written in the place of a value that was not measured."""


def speedup(value: float | None) -> str:
    """``2.013`` -> ``2.01x``."""
    return MISSING if value is None else f"{value:.2f}x"


def interval(value: Interval) -> str:
    """The two ends of an interval, with an en dash: ``1.99-2.03``."""
    return f"{value.low:.2f}{DASH}{value.high:.2f}"


def target(report: RunResult, result: ModelResult) -> str:
    """The target of one model: ``2.00x`` for a speed-up, ``60 %`` for a sparsity, ``keep 99 %`` for a quality."""
    if report.target_kind == "keep":
        return f"keep {100 * result.target:g} %"
    return percent(result.target) if report.target_kind == "sparsity" else speedup(result.target)


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits: ``58.9 ms``."""
    if value is None:
        return MISSING
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{decimals}f} ms"


def parameters(count: int) -> str:
    """A number of parameters, abbreviated: ``41203458`` -> ``41.2M``."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 100 * size else 1 if count >= 10 * size else 2}f}{letter}"
    return str(count)


def parameters_of_dense(result: ModelResult) -> str:
    """Parameters of the pruned and of the dense model: ``41.2M of 109M``."""
    return f"{parameters(result.parameters)} of {parameters(result.dense_parameters)}"


def size(count: int) -> str:
    """A number of bytes with three significant digits: ``1310720`` -> ``1.31 MB``."""
    for step, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= step:
            return f"{count / step:.{0 if count >= 100 * step else 1 if count >= 10 * step else 2}f} {unit}"
    return f"{count} bytes"


def thousands(count: int) -> str:
    """A full count with separators: ``36864`` -> ``36,864``."""
    return f"{count:,}"


def percent(fraction: float) -> str:
    """A fraction as a percentage: ``0.714`` -> ``71 %``; one decimal below 10 % and above 99 %."""
    return f"{100 * fraction:.1f} %" if 0 < abs(fraction) < 0.1 or abs(fraction) > 0.99 else f"{100 * fraction:.0f} %"


def sparsity(fraction: float | None) -> str:
    """``0.6037`` -> ``60.4 %``; always one decimal, because the definitions of sparsity differ by tenths of a percent."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def sparsity_and_zeros(result: ModelResult) -> str:
    """The sparsity of a model and its fraction of zeros, if it has zeros: ``0 %, 90 % zeros``."""
    zeros = f", {percent(result.zeros)} zeros" if result.has_zeros else ""
    return sparsity(result.sparsity) + zeros


def sparsity_columns(models: Sequence[ModelResult]) -> dict[str, str]:
    """The sparsity columns of a table: heading -> field of ``ModelResult``.

    The columns ``with norms`` and ``expected`` are added only if a model was pruned by learned gates: the papers of
    those methods report them.
    """
    columns = {"sparsity": "sparsity"}
    if any(result.expected_sparsity is not None for result in models):
        columns |= {"with norms": "sparsity_with_norms", "expected": "expected_sparsity"}
    return columns


def quality(value: float) -> str:
    """A metric or a divergence, with about four digits; a small one with two significant digits: ``0.0011``."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.{_decimals(value)}f}".replace("-", MINUS)


def _decimals(value: float) -> int:
    """Decimals with which a metric or a divergence is written; at most ten."""
    size = abs(value)
    if size >= 10:
        return 1 if size >= 1000 else 2
    return 3 if size < 1e-9 or size >= 0.01 else 1 - math.floor(math.log10(size))


def difference(metric: Metric) -> str:
    """The metric of the pruned model minus that of the dense model, with its sign."""
    step = metric.value - metric.dense
    decimals = _decimals(metric.dense) if abs(metric.dense) < 10 else 2
    text = f"{abs(step):.{decimals}f}"
    return f"{MINUS if step < 0 else '+'}{text}" if float(text) else f"±{text}"


def duration(seconds: float) -> str:
    """``754`` -> ``12 min 34 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def verdict(result: ModelResult) -> str:
    """``met``, ``missed``, or ``not verified`` if the latency table comes from another machine or environment."""
    return {True: "met", False: "missed", None: "not verified"}[result.met]


def readable(name: str) -> str:
    """``pearson_correlation`` -> ``pearson correlation``."""
    return name.replace("_", " ")


def join_with_and(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
