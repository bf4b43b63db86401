"""Makes complete runs fast."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def fast_runs(short_measurements: None) -> None:
    """Measure briefly, and exclude imported modules from garbage collection: every training ends with two collections."""
    gc.collect()
    gc.freeze()
