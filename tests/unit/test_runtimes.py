"""The runtime protocol, tested on every runtime."""

from __future__ import annotations

import pkgutil

import pytest
import torch

import secateurs.latency.runtimes
from secateurs.errors import RecipeError
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import names, runtime
from secateurs.latency.workload import random_batch
from tiny_models import tiny_model


def test_every_file_is_named_after_its_runtime() -> None:
    files = [module.name for module in pkgutil.iter_modules(secateurs.latency.runtimes.__path__)]
    assert sorted(files) == [f"{name}_runtime" for name in names()]
    assert "torch" in names()


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"runtime 'abacus' is unknown; choose one of: .*torch"):
        runtime("abacus")


@pytest.mark.parametrize("name", names())
def test_a_runtime_runs_the_model_and_does_not_change_it(name: str) -> None:
    model = tiny_model("bert").train()
    environment = Environment(batch_size=2, sequence_length=5, runtime=name)
    batch = random_batch(model, environment, seed=0)
    logits = runtime(name)(model, environment)(batch).logits
    assert logits.dtype == torch.float32
    assert logits.is_inference()
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    expected = model.eval()(**batch).logits
    assert torch.allclose(logits.double(), expected, atol=1e-4)
