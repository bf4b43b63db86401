"""Which search prices the levels."""

from __future__ import annotations

import pytest

from secateurs.methods.ziplm.search import searches_by_gradient
from secateurs.methods.ziplm.settings import ZipLMSettings
from secateurs.structure.families import discover
from tiny_models import tiny_model


@pytest.mark.parametrize(
    ("model_type", "by_gradient"), [("bert", True), ("llama", True), ("t5", True), ("gemma2", False), ("olmo2", False)]
)
def test_a_norm_behind_the_projections_needs_measured_prices(model_type: str, by_gradient: bool) -> None:
    """The gradient in front of such a norm is at right angles to the output: a whole removal would look free."""
    assert searches_by_gradient(ZipLMSettings(), discover(tiny_model(model_type))) is by_gradient


@pytest.mark.parametrize("values", [{"search": "probes"}, {"objective": "loss"}, {"allow": "rank"}])
def test_other_settings_measure_too(values: dict[str, str]) -> None:
    assert not searches_by_gradient(ZipLMSettings(**values), discover(tiny_model("bert")))  # type: ignore[arg-type]
