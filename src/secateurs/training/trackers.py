"""Experiment trackers: services and files that record a training, through the integrations of transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers.integrations import integration_utils

from secateurs.errors import RecipeError

__all__ = ["LOGGING_STEPS", "check_trackers", "logging_to"]

LOGGING_STEPS = 10
"""Optimiser steps between two logged values."""

TENSORBOARD_VARIABLE = "TENSORBOARD_LOGGING_DIR"


def check_trackers(names: Sequence[str]) -> None:
    """Check that transformers knows the trackers and that their packages are installed.

    Args:
        names: transformers' names of the trackers.

    Raises:
        RecipeError: a tracker is unknown or not installed.
    """
    for name in names:
        if name not in integration_utils.INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(integration_utils.INTEGRATION_TO_CALLBACK))
            raise RecipeError(f"there is no tracker {name!r}; transformers knows {known}")
        if name not in integration_utils.get_available_reporting_integrations():
            raise RecipeError(f"the tracker {name} is not installed; install its package, or remove it from trackers")


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """While trackers are created: make trackers that write files write them to ``folder``.

    TensorBoard's integration reads its folder from an environment variable. A value that the user has set is kept.

    Args:
        folder: folder of the log files; ``None`` = the default of each tracker.
    """
    if folder is None or TENSORBOARD_VARIABLE in os.environ:
        yield
        return
    os.environ[TENSORBOARD_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[TENSORBOARD_VARIABLE]
