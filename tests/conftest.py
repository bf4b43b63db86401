"""Shape checking by jaxtyping and beartype (in tests only), and the path to real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("secateurs.numerics", "beartype.beartype")
install_import_hook("secateurs.mask", "beartype.beartype")

SHARED = Path(os.environ.get("SECATEURS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models; the test is skipped where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not on this machine (looked in {SHARED}; set SECATEURS_SHARED)")
    return SHARED
