"""The tables that ``secateurs measure`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from secateurs.latency.compare import GenerationTiming, Measurement
from secateurs.latency.table import LatencyTable
from secateurs.report.formatting import size

__all__ = ["Places", "comparison_table", "curves_table", "in_own_runtime"]

Places = Mapping[str, tuple[str, str]]
"""Name of a timing -> the model and its runtime."""


def in_own_runtime(measured: Measurement, places: Places) -> dict[str, Any]:
    """Where several runtimes were timed: the runtime of each name, and its speed-up over the first model in that runtime."""
    if len({runtime for _, runtime in places.values()}) < 2:
        return {}
    firsts: dict[str, str] = {}
    for name, (_, runtime) in places.items():
        firsts.setdefault(runtime, name)
    speeds = measured.speedups
    return {
        "runtimes": {name: runtime for name, (_, runtime) in places.items()},
        "in_own_runtime": {name: speeds[name].over(speeds[firsts[runtime]]) for name, (_, runtime) in places.items()},
    }


def comparison_table(measured: Measurement, places: Places) -> Table:
    """One row per model and runtime: latency, throughput, and speed-up over the first row."""
    count = max(len(speed.processes) for speed in measured.speedups.values())
    own = in_own_runtime(measured, places).get("in_own_runtime", {})
    runtimes = ", ".join(dict.fromkeys(runtime for _, runtime in places.values()))
    table = Table(
        "model",
        *(["runtime", "there"] if own else []),
        *("latency", "quartiles", "per second", "speed-up", "95 % interval"),
        title=str(replace(measured.environment, runtime=runtimes)),
    )
    table.caption = f"intervals over {count} processes" if count else "intervals over the rounds of one process"
    if own:
        table.caption += "; there: speed-up over the first model in the same runtime"
    if measured.environment.generates:
        for heading in ("first token", "per token", "cache"):
            table.add_column(heading)
    for name, timing in measured.timings.items():
        speed, (model, runtime) = measured.speedups[name], places[name]
        table.add_row(
            model,
            *([runtime, f"{own[name]:.3f}x"] if own else []),
            f"{timing.latency_ms:.2f} ms",
            f"{timing.latency_low:.2f} to {timing.latency_high:.2f}",
            f"{timing.throughput_per_second:.1f}",
            f"{speed.median:.3f}x",
            f"{speed.low:.3f} to {speed.high:.3f}",
            *_generation_cells(timing.generation),
        )
    return table


def _generation_cells(generation: GenerationTiming | None) -> list[str]:
    """Time to first token, time per token, and size of the cache, where they were timed."""
    if generation is None:
        return []
    return [f"{generation.first_token_ms:.2f} ms", f"{generation.per_token_ms:.3f} ms", size(generation.cache_bytes)]


def curves_table(measured: LatencyTable, path: Path) -> Table:
    """One row per latency curve, and the time that no pruning removes."""
    title = f"{measured.environment}: dense {measured.dense_ms:.2f} ms, noise {measured.noise:.1%}"
    table = Table("curve", "kept units: ms", title=title)
    # A step takes about a millisecond, so the parts of a generation have a digit more.
    decimals = 3 if measured.parts else 2
    shown = {f"{name.replace('_', ' ')}: ": part for name, part in measured.parts.items()} or {"": measured}
    for part, one in shown.items():
        for name, curve in one.curves.items():
            table.add_row(
                f"{part}{name} (by {curve.multiple})",
                "  ".join(f"{kept}: {ms:.{decimals}f}" for kept, ms in zip(curve.units, curve.ms, strict=True)),
            )
        head = "" if one.output_head_ms is None else f", of which the output head {one.output_head_ms:.{decimals}f}"
        table.add_row(f"{part}overhead (not prunable)", f"{one.overhead_ms:.{decimals}f}{head}")
    table.caption = f"largest speed-up {measured.largest_speedup:.1f}x; written to {path}"
    return table
