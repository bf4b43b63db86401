"""How many steps masks are learned for, and the learning rate with which gates can close within them."""

from __future__ import annotations

import logging
import math

from secateurs.errors import RecipeError
from secateurs.gates.mask_learning import GatePace
from secateurs.methods.cofi.settings import CoFiSettings

__all__ = ["mask_schedule", "steps_and_rate"]

logger = logging.getLogger(__name__)

TRAVEL = 6.5
"""Change of ``log_alpha`` from fully open to mostly closed; a step changes it by one learning rate at most."""

FASTEST = 0.1
"""Highest learning rate that is chosen for the gates."""


def mask_schedule(how: CoFiSettings, rows: int, batch: int) -> tuple[int, GatePace]:
    """Steps of the mask learning, and a pace at which gates can close within them.

    Args:
        how: the hyper-parameters.
        rows: rows of the training split.
        batch: rows per step.
    """
    steps, rate = steps_and_rate(how, rows, batch)
    if rate > how.gate_rate:
        logger.warning("%d steps are too few to close gates at a rate of %g; using %.3g", steps, how.gate_rate, rate)
    ramp = 0 if how.masks == "ziplm" else round(steps * how.ramp / how.epochs)
    return steps, GatePace(ramp, rate, how.multiplier_rate, how.ascent)


def steps_and_rate(how: CoFiSettings, rows: int, batch: int) -> tuple[int, float]:
    """Optimiser steps, and a learning rate with which gates can close within them.

    Args:
        how: the hyper-parameters.
        rows: rows of the training split.
        batch: rows per step.

    Raises:
        RecipeError: there are too few steps for any rate.
    """
    steps = how.steps or math.ceil(how.epochs * rows / batch)
    if steps * how.gate_rate >= 1.5 * TRAVEL:
        return steps, how.gate_rate
    if steps * FASTEST < 1.5 * TRAVEL:
        raise RecipeError(
            f"cofi: {steps} steps are too few to learn masks; give at least {math.ceil(1.5 * TRAVEL / FASTEST)} "
            f"(--set steps=N, or more epochs of {rows} rows)"
        )
    return steps, 1.5 * TRAVEL / steps
