"""How numbers are written: one way for the page, the card and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secateurs.report.values import Facts, Interval, Metric, ModelResult

__all__ = [
    "against",
    "asked",
    "difference",
    "duration",
    "headline",
    "highlight",
    "keeps",
    "listed",
    "loss",
    "ms",
    "parameters",
    "percent",
    "quality",
    "removed",
    "shape",
    "span",
    "sparsities",
    "sparsity",
    "speedup",
    "words",
]

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MISSING = DASH
HIGHLIGHT_LOSS = 0.01


def speedup(value: float | None) -> str:
    """``2.013`` -> ``2.01x``."""
    return MISSING if value is None else f"{value:.2f}x"


def span(interval: Interval) -> str:
    """``1.99-2.03``, with an en dash."""
    return f"{interval.low:.2f}{DASH}{interval.high:.2f}"


def asked(report: Facts, result: ModelResult) -> str:
    """The target as the user put it."""
    return percent(result.target) if report.target_kind == "sparsity" else speedup(result.target)


def ms(value: float | None) -> str:
    """Three significant digits: ``58.9 ms``."""
    if value is None:
        return MISSING
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{decimals}f} ms"


def parameters(count: int) -> str:
    """``41203458`` -> ``41.2M``."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 100 * size else 1 if count >= 10 * size else 2}f}{letter}"
    return str(count)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if 0 < abs(fraction) < 0.1 or abs(fraction) > 0.99 else f"{100 * fraction:.0f} %"


def sparsity(fraction: float | None) -> str:
    """``0.6037`` -> ``60.4 %``: the ways of counting differ by tenths."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def sparsities(models: Sequence[ModelResult]) -> dict[str, str]:
    """Heading -> field of ``ModelResult``; other ways of counting only where gates were learned, whose paper has them."""
    columns = {"sparsity": "sparsity"}
    if any(result.expected_sparsity is not None for result in models):
        columns |= {"with norms": "sparsity_with_norms", "expected": "expected_sparsity"}
    return columns


def removed(result: ModelResult) -> str:
    """Its sparsity, and the zeros it was given instead: ``0 %, 90 % zeros``."""
    zeros = f", {percent(result.zeros)} zeros" if result.has_zeros else ""
    return sparsity(result.sparsity) + zeros


def quality(value: float) -> str:
    """A metric or divergence: about four digits."""
    if not math.isfinite(value):
        return str(value)
    decimals = 1 if abs(value) >= 1000 else 2 if abs(value) >= 10 else 3
    return f"{value:.{decimals}f}".replace("-", MINUS)


def difference(metric: Metric) -> str:
    """The step from dense to pruned, with its sign."""
    step = metric.value - metric.dense
    text = quality(abs(step)) if abs(metric.dense) < 10 else f"{abs(step):.2f}"
    return f"{MINUS if step < 0 else '+'}{text}" if float(text) else f"±{text}"


def duration(seconds: float) -> str:
    """``754`` -> ``12 min 34 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shape(count: int) -> str:
    """``36864`` -> ``36,864``."""
    return f"{count:,}"


def loss(report: Facts, metric: Metric) -> float:
    """How much worse than dense, as a fraction of dense; negative if better."""
    step = metric.dense - metric.value if report.higher_is_better else metric.value - metric.dense
    return step / abs(metric.dense) if metric.dense else step


def keeps(report: Facts, result: ModelResult) -> bool:
    """Met its target within 1 % of the dense metric."""
    return bool(result.met) and result.metric is not None and loss(report, result.metric) <= HIGHLIGHT_LOSS


def highlight(report: Facts) -> ModelResult | None:
    """The model to speak of first: the fastest that ``keeps`` both promises, else the mildest."""
    by_target = sorted(report.models, key=lambda result: result.target)
    good = [result for result in by_target if keeps(report, result)]
    return good[-1] if good else next(iter(by_target), None)


def headline(result: ModelResult) -> str:
    """``2.01x faster (95 % interval 1.99-2.03), accuracy 0.881 against 0.892``."""
    measured = result.measured_speedup
    if measured is None:
        parts = [f"{percent(result.sparsity)} sparse ({against(result)} parameters)"]
    else:
        word = "faster" if measured.median > 1 else "as fast"
        parts = [f"{speedup(measured.median)} {word} (95 % interval {span(measured)})"]
    if result.metric is not None:
        metric = result.metric
        parts.append(f"{words(metric.name)} {quality(metric.value)} against {quality(metric.dense)}")
    elif result.divergence is not None:
        parts.append(f"{words(result.divergence.name)} {quality(result.divergence.value)} from dense")
    return ", ".join(parts)


def verdict(result: ModelResult) -> str:
    """``met``, ``missed``, or ``not judged`` where the table is of another machine or environment."""
    return {True: "met", False: "missed", None: "not judged"}[result.met]


def against(result: ModelResult) -> str:
    """``41.2M of 109M``."""
    return f"{parameters(result.parameters)} of {parameters(result.dense_parameters)}"


def words(name: str) -> str:
    """``pearson_correlation`` -> ``pearson correlation``."""
    return name.replace("_", " ")


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
