"""Checks array shapes at run time with jaxtyping and beartype, and defines the fixtures that several test files use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("secateurs.numerics", "beartype.beartype")
install_import_hook("secateurs.structure.mask", "beartype.beartype")

SHARED = Path(os.environ.get("SECATEURS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models. Tests that need it are skipped if it does not exist."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not on this machine (looked in {SHARED}; set SECATEURS_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def short_measurements() -> Iterator[None]:
    """Time saved models in this process, with few rounds: the speed of tiny models is not tested, and processes take long."""
    from secateurs.latency import fresh_processes
    from secateurs.latency.timing_process import answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_processes, "run_process", answer)
        patch.setattr(fresh_processes, "SECONDS", 0.05)
        patch.setattr(fresh_processes, "ROUNDS", (2, 20))
        yield


@cache
def _rms_norms() -> frozenset[type]:
    """The RMSNorm classes of all families."""
    from secateurs.modeling.hf_classes import is_norm
    from secateurs.structure.families import model_types
    from tiny_models import tiny_model

    modules = [module for model_type in model_types() for module in tiny_model(model_type).modules()]
    return frozenset(type(one) for one in modules if is_norm(one) and not isinstance(one, torch.nn.LayerNorm))


@pytest.fixture
def norms_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every RMSNorm of transformers compute in fp64.

    They compute in fp32, where a sum over fewer terms differs by more than the tolerance of 1e-12.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        gemma = "Gemma" in type(self).__name__  # stores its gain less 1
        eps = self.eps if gemma else self.variance_epsilon
        return (self.weight + gemma) * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))

    for cls in _rms_norms():
        monkeypatch.setattr(cls, "forward", forward)
