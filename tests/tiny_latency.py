"""Latency tables of tiny models: their environment, the shortest measurement, and what a timed run is made of."""

from __future__ import annotations

from typing import Any

import torch

from secateurs.latency.environment import Environment

__all__ = ["ONCE", "SMALL", "closure_modules"]

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
