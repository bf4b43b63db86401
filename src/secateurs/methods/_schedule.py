"""How many steps masks are learned in, and how fast gates must learn to close within them."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from secateurs.errors import RecipeError

if TYPE_CHECKING:
    from secateurs.methods.cofi import CoFi

__all__ = ["steps_and_rate"]

logger = logging.getLogger(__name__)

TRAVEL = 6.5
"""From wide open to more closed than not, a ``log_alpha`` goes this far, at most one learning rate a step."""

FASTEST = 0.1
"""The highest rate that is chosen for the gates."""


def steps_and_rate(how: CoFi, rows: int, batch: int) -> tuple[int, float]:
    """Steps of the optimiser, and a rate of the gates with which they can close within these.

    Args:
        how: the hyper-parameters.
        rows: of the training split.
        batch: of those, in one step.

    Raises:
        RecipeError: there are too few steps for any rate.
    """
    steps = how.steps or math.ceil(how.epochs * rows / batch)
    if steps * how.gate_rate >= 1.5 * TRAVEL:
        return steps, how.gate_rate
    if steps * FASTEST < 1.5 * TRAVEL:
        raise RecipeError(
            f"{how.name}: {steps} steps are too few to learn masks; give at least {math.ceil(1.5 * TRAVEL / FASTEST)} "
            f"(--set steps=N, or more epochs of {rows} rows)"
        )
    return steps, 1.5 * TRAVEL / steps
