"""Shape checking by jaxtyping and beartype (in tests only), and the path to real data."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
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


@cache
def _rms_norms() -> frozenset[type]:
    from secateurs.families import model_types
    from tiny_models import tiny_model

    modules = [module for model_type in model_types() for module in tiny_model(model_type).modules()]
    return frozenset(type(module) for module in modules if type(module).__name__.endswith("RMSNorm"))


@pytest.fixture
def norms_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock RMSNorms compute in fp32, in which a sum over fewer terms is another number: no place for 1e-12."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    for cls in _rms_norms():
        monkeypatch.setattr(cls, "forward", forward)
