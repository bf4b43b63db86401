"""Latency tables of tiny models: their environment, the shortest measurement, and what a timed run is made of."""

from __future__ import annotations

from typing import Any

import torch

from secateurs.latency.compare import Measurement, Speed, Timing
from secateurs.latency.environment import Environment
from secateurs.latency.timing_process import Request

__all__ = ["ONCE", "SMALL", "by_parameters", "closure_modules"]

SMALL = Environment(batch_size=2, sequence_length=6)

ONCE: dict[str, Any] = {"seconds": 0.0, "rounds": (1, 1)}
"""Options of a measurement that reads everything once."""


def closure_modules(run) -> list:
    """Every module reachable from the closure of a timed run."""
    found = []

    def visit(function) -> None:
        for cell in function.__closure__ or ():
            if isinstance(cell.cell_contents, torch.nn.Module):
                found.extend(cell.cell_contents.modules())
            elif callable(cell.cell_contents) and hasattr(cell.cell_contents, "__closure__"):
                visit(cell.cell_contents)

    visit(run)
    return found


def by_parameters(request: Request) -> Measurement:
    """A process in which a model takes one millisecond per thousand parameters."""
    ms = {
        name: sum(parameter.numel() for parameter in saved.load().parameters()) / 1e3
        for name, saved in request.models.items()
    }
    speeds = {name: ms["dense"] / one for name, one in ms.items()}
    return Measurement(
        request.environment,
        "dense",
        {name: Timing(one, one, one, 1.0, 5, 0.0) for name, one in ms.items()},
        {name: Speed(speed, speed, speed) for name, speed in speeds.items()},
    )
