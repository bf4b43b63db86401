"""Correct a latency table by a handful of random pruned models that are timed whole.

A table adds up layers that were timed one by one. Inside a whole model, caches and buffers are in another state, so sums were
6 to 20 % off on some processors. The overhead and the curves of each kind of group get one factor each, such that

    ms(model) = a * overhead + sum over kinds of b_kind * (curves of that kind)

fits the timed models. The factors are the posterior means of a linear regression whose prior is that all are 1: a timing that
scatters moves them less. The time of the dense model is not changed: it is the numerator of every speed-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from secateurs.latency.interleave import Samples
from secateurs.latency.table import LatencyTable

__all__ = ["correct"]

PRIOR_OVERHEAD = 0.5
"""Standard deviation of the factor of the overhead before anything is timed. It is a small part of the time, hard to time."""

PRIOR_CURVES = 0.15
"""Standard deviation of the factors of the curves before anything is timed."""

PRECISION = 0.01
"""Relative error that the timing of a whole model has at least."""

LARGEST_OVERHEAD = 0.95
"""Largest share of the time of the dense model that a correction may give to the overhead."""

LIMITS = (0.5, 2.0)
"""Range of the factors."""


def correct(table: LatencyTable, samples: Samples, models: Mapping[str, Mapping[str, int]], dense: str) -> LatencyTable:
    """Fit the factors of a table to timed models.

    Args:
        table: table without a correction.
        samples: readings of the dense model and of the pruned models, taken in turns.
        models: name of a pruned model -> its kept counts.
        dense: name of the dense model in ``samples``.
    """
    features = np.array([_parts(table, counts) for counts in models.values()])
    ratios = [samples.ratio(name, dense) for name in models]
    ms = table.dense_ms * np.array([median for median, _, _ in ratios])
    # Relative errors: every row is divided by its time. The interval is 3.92 standard errors wide.
    errors = np.array([max(PRECISION, (high - low) / median / 3.92) for median, low, high in ratios])
    rows = features / ms[:, None] / errors[:, None]
    kinds = _kinds(table)
    prior = 1 / np.array([PRIOR_OVERHEAD, *[PRIOR_CURVES] * len(kinds)]) ** 2
    gram = rows.T @ rows + np.diag(prior)
    factors = np.clip(np.linalg.solve(gram, rows.T @ (1 / errors) + prior), *LIMITS)
    by_kind = dict(zip(kinds, factors[1:], strict=True))
    curves = {
        name: replace(curve, ms=tuple(float(by_kind[_kind(name)]) * value for value in curve.ms))
        for name, curve in table.curves.items()
    }
    before, after = (float(np.abs(features @ values / ms - 1).mean()) for values in (np.ones_like(factors), factors))
    correction = {
        "overhead": float(factors[0]),
        **{kind: float(factor) for kind, factor in by_kind.items()},
        "models": len(models),
        "mean_error_before": before,
        "mean_error_after": after,
    }
    # What no cut removes stays below the dense model, whatever the timings say.
    overhead = min(float(factors[0]) * table.overhead_ms, max(table.overhead_ms, LARGEST_OVERHEAD * table.dense_ms))
    return replace(table, overhead_ms=overhead, curves=curves, correction=correction)


def _kind(curve: str) -> str:
    """Kind of a curve: its name without the number."""
    return curve.partition(".")[0]


def _kinds(table: LatencyTable) -> list[str]:
    return list(dict.fromkeys(map(_kind, table.curves)))


def _parts(table: LatencyTable, counts: Mapping[str, int]) -> Sequence[float] | Float[np.ndarray, " parts"]:
    """Milliseconds of the overhead and of the curves of each kind."""
    parts = dict.fromkeys(_kinds(table), 0.0)
    for name, kept in counts.items():
        if name in table.groups:
            parts[_kind(table.groups[name])] += table.group_cost(name, kept)
    return [table.overhead_ms, *parts.values()]
