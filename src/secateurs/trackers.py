"""Trackers: services and files that follow a training, by the integrations that transformers has for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers.integrations import integration_utils

from secateurs.errors import RecipeError

__all__ = ["EVERY", "check_trackers", "logging_to"]

EVERY = 10
"""Steps between two figures."""

FOLDER = "TENSORBOARD_LOGGING_DIR"


def check_trackers(names: Sequence[str]) -> None:
    """Whether transformers knows them, and finds them installed.

    Raises:
        RecipeError: it does not.
    """
    for name in names:
        if name not in integration_utils.INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(integration_utils.INTEGRATION_TO_CALLBACK))
            raise RecipeError(f"there is no tracker {name!r}; transformers knows {known}")
        if name not in integration_utils.get_available_reporting_integrations():
            raise RecipeError(f"the tracker {name} is not installed; install its package, or leave it out of trackers")


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """For trackers that write files. TensorBoard's takes its folder from the environment when it is made, and what the user
    has put there stands."""
    if folder is None or FOLDER in os.environ:
        yield
        return
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[FOLDER]
