"""The knee of the curve of a run with ``speedup: auto``: the last speed-up before the quality falls faster than on average.

A curve goes from the dense model (speed-up 1, divergence 0) over the models to the fastest one. Both axes are scaled so that
it goes from (0, 0) to (1, 1). The knee is the model that lies farthest below the straight line between these two ends.
"""

from __future__ import annotations

from secateurs.report.formatting import target
from secateurs.report.values import ModelResult, RunResult

__all__ = ["KNEE", "asked", "knee"]

KNEE = (
    "Knee: the model farthest below the straight line from the dense model to the fastest one, in measured speed-up and "
    "divergence."
)
"""How the knee is defined, for readers of the report."""


def knee(report: RunResult) -> ModelResult | None:
    """The model at the knee.

    Returns:
        The model; ``None`` if the run did not ask for a curve, or the curve has no knee: fewer than 2 models were timed,
        or none lies below the line.
    """
    if "auto" not in report.recipe.get("speedup", ()):
        return None
    points = [
        (model.measured_speedup.median - 1, model.divergence.value, model)
        for model in report.models
        if model.measured_speedup is not None and model.divergence is not None
    ]
    fastest = max(points, key=lambda point: point[0], default=None)
    if fastest is None or fastest[0] <= 0 or fastest[1] <= 0:
        return None
    # The distance from the line is the same multiple of the difference for all points.
    below, found = max(
        ((speed / fastest[0] - lost / fastest[1], model) for speed, lost, model in points), key=lambda pair: pair[0]
    )
    return found if below > 1e-9 else None


def asked(report: RunResult, result: ModelResult) -> str:
    """The target of a model, with a word where it is the knee: ``3.00x (knee)``."""
    mark = " (knee)" if knee(report) is result else ""
    return target(report, result) + mark
