"""Lengths of the trainings in the settings of a method, which ``minutes`` scales: epochs, steps, and those before and after.

Every method that trains masks has the fields ``epochs`` and ``steps``; all other lengths are in proportion to them.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, TypeVar

__all__ = ["rehearsed", "rows_of_training", "scaled"]

Settings = TypeVar("Settings")

EPOCHS = ("epochs", "ramp", "prepruning", "finetuning")
STEPS = ("steps", "finetuning_steps")

REHEARSED_STEPS = 10_000
"""Steps of a training that is interrupted after a few of them."""


def scaled(settings: Settings, factor: float) -> Settings:
    """The settings with all trainings longer or shorter by one factor. A number of steps that was not 0 is at least 1.

    Args:
        settings: the method, or its settings.
        factor: the factor.
    """
    known = {field.name for field in fields(settings)}  # pyright: ignore[reportArgumentType]
    values: dict[str, Any] = {name: getattr(settings, name) * factor for name in EPOCHS if name in known}
    values |= {name: math.ceil(getattr(settings, name) * factor) for name in STEPS if name in known}
    return replace(settings, **values)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType]


def rows_of_training(settings: Any, rows: int, batch: int) -> float:
    """Rows that are read while masks are trained.

    Args:
        settings: the method, or its settings.
        rows: rows of the training split.
        batch: rows per optimiser step.
    """
    return (settings.steps * batch or settings.epochs * rows) + getattr(settings, "prepruning", 0.0) * rows


def rehearsed(settings: Settings) -> Settings:
    """The settings with the same steps of training, many of them, and no search for its start.

    Args:
        settings: the method, or its settings.
    """
    known = {field.name for field in fields(settings)}  # pyright: ignore[reportArgumentType]
    start = {"masks": "open"} if "masks" in known else {}
    return replace(settings, steps=REHEARSED_STEPS, **start)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType]
