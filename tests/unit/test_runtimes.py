"""The runtime protocol, tested on every runtime that is installed."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import secateurs.latency.runtimes
from masks import two_blocks_removed
from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import names, runtime
from secateurs.latency.traced import CapturedCalls, refuse_untraceable, traced
from secateurs.latency.workload import check, random_batch
from secateurs.structure.families import discover
from secateurs.surgery.shrink import shrink
from tiny_models import tiny_model


def require(name: str) -> None:
    """Skip the test if the runtime cannot be used here."""
    try:
        check(Environment(runtime=name))
    except RecipeError as error:
        pytest.skip(str(error))


def test_every_file_is_named_after_its_runtime() -> None:
    files = [module.name for module in pkgutil.iter_modules(secateurs.latency.runtimes.__path__)]
    assert sorted(files) == sorted(f"{name.replace('-', '_')}_runtime" for name in names())
    assert {"torch", "onnx", "openvino", "compiled", "torch-export"} <= set(names())


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"runtime 'abacus' is unknown; choose one of: .*torch"):
        runtime("abacus")


@pytest.mark.parametrize("name", names())
def test_a_runtime_runs_an_unevenly_pruned_model_and_does_not_change_it(name: str) -> None:
    """Prepared with one row of five tokens, it runs other shapes, with padding, on blocks that are removed."""
    require(name)
    model = tiny_model("bert", num_hidden_layers=2).train()
    structure = discover(model)
    shrink(model, structure, two_blocks_removed(structure))
    environment = Environment(batch_size=1, sequence_length=5, runtime=name)
    execute = runtime(name).prepare(model, environment, random_batch(model, environment, seed=0))
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model.eval()
    for rows, length in ((1, 1), (1, 5), (3, 4)):
        batch = random_batch(model, replace(environment, batch_size=rows, sequence_length=length), seed=1)
        batch["attention_mask"][-1, length // 2 + 1 :] = 0
        logits = torch.as_tensor(np.asarray(execute(batch)["logits"]))
        assert logits.dtype == torch.float32
        assert torch.allclose(logits.double(), model(**batch).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("onnx", {"dtype": "bfloat16"}, "runtime onnx runs in float32, not in bfloat16"),
        ("openvino", {"dtype": "float16"}, "runtime openvino runs in float32 and bfloat16, not in float16"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(name: str, change: dict[str, str], message: str) -> None:
    require(name)
    with pytest.raises(RecipeError, match=message):
        check(Environment(runtime=name, **change))  # type: ignore[arg-type]


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(runtime("onnx")), "packages", ("a_package_that_is_not_there",))
    with pytest.raises(RecipeError, match=r'needs a_package_that_is_not_there.*pip install "secateurs\[onnx\]"'):
        check(Environment(runtime="onnx"))


def test_an_exporter_that_fails_is_one_line() -> None:
    refused = pytest.raises(UnsupportedModelError, match=r"^Linear cannot be exported to onnx: first$")
    with refused, refuse_untraceable("onnx", torch.nn.Linear(1, 1)):
        raise ValueError("first\nsecond")


class Weighted(torch.nn.Module):
    """A layer that is given a tensor, the same tensor again, a number, nothing, and a pair."""

    def forward(self, x: Any, again: Any, *, factor: float, nothing: None, pair: tuple[Any, Any]) -> tuple[Any, None]:
        assert nothing is None
        return factor * x + again + pair[0] - pair[1], None


def test_calls_of_a_layer_become_a_function_of_tensors() -> None:
    x, y, z = torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 2)
    calls = [
        ((x, x), {"factor": 2.0, "nothing": None, "pair": (y, z)}),
        ((z, x), {"factor": 0.5, "nothing": None, "pair": (y, y)}),
    ]
    plain = traced(CapturedCalls(Weighted()), {"calls": calls})
    assert len(plain.inputs) == 3
    found = plain.module(**plain.feed({"calls": calls}))
    assert len(found) == 2
    assert torch.allclose(found["y0"], 2 * x + x + y - z, atol=1e-5)
    assert torch.allclose(found["y1"], 0.5 * z + x, atol=1e-5)


def test_an_axis_of_one_is_widened_for_the_tracer() -> None:
    model = tiny_model("bert")
    plain = traced(model, random_batch(model, Environment(batch_size=1, sequence_length=1), seed=0))
    assert {tuple(tensor.shape) for tensor in plain.inputs.values()} == {(2, 2)}
    assert plain.axes == {"input_ids": (0, 1), "attention_mask": (0, 1)}
