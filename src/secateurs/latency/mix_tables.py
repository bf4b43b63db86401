"""Add latency tables of several passes to the table of what is made of them.

A generation is one pass over the prompt and ``N`` steps, so each of its groups takes ``prompt + N * step`` milliseconds. The
sum is a table like any other: methods and contract need not know that it has parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from secateurs.latency.curve import LatencyCurve
from secateurs.latency.table import LatencyTable

__all__ = ["mix"]


def mix(parts: Mapping[str, tuple[LatencyTable, int]]) -> LatencyTable:
    """The table of passes that are run one after the other.

    Args:
        parts: name of a pass -> its table, and how often the pass is run. All tables have the same curves at the same kept
            counts.
    """
    tables = [table for table, _ in parts.values()]
    times = [number for _, number in parts.values()]
    heads = [table.output_head_ms for table in tables]
    return replace(
        tables[0],
        dense_ms=_sum([table.dense_ms for table in tables], times),
        overhead_ms=_sum([table.overhead_ms for table in tables], times),
        curves={name: _mix_curves([table.curves[name] for table in tables], times) for name in tables[0].curves},
        noise=max(table.noise for table in tables),
        correction={},
        output_head_ms=None if None in heads else _sum([head or 0.0 for head in heads], times),
        parts={name: table for name, (table, _) in parts.items()},
    )


def _mix_curves(curves: Sequence[LatencyCurve], times: Sequence[int]) -> LatencyCurve:
    """The curve of all passes. Where their multiples differ, the largest is a multiple of all: all are powers of two.

    The spread of a point is that of a sum of independent readings.
    """
    columns = list(zip(*(curve.raw_ms for curve in curves), strict=True))
    spreads = list(zip(*(curve.spread for curve in curves), strict=True))
    raw = [_sum(column, times) for column in columns]
    scatter = [
        sum((number * ms * part) ** 2 for number, ms, part in zip(times, column, parts, strict=True)) ** 0.5
        for column, parts in zip(columns, spreads, strict=True)
    ]
    return replace(
        curves[0],
        ms=tuple(_sum(column, times) for column in zip(*(curve.ms for curve in curves), strict=True)),
        raw_ms=tuple(raw),
        spread=tuple(part / abs(ms) if ms else 0.0 for part, ms in zip(scatter, raw, strict=True)),
        multiple=max(curve.multiple for curve in curves),
    )


def _sum(values: Sequence[float], times: Sequence[int]) -> float:
    return sum(number * value for number, value in zip(times, values, strict=True))
