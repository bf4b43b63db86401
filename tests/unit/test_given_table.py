"""Whether a latency table is of this machine and environment: only what the device uses is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateurs.errors import RecipeError
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.pipeline import given_table as module
from secateurs.pipeline.given_table import given_table, measured_here
from secateurs.pipeline.recipe import Recipe

CPU = Environment(threads=4)
GPU = Environment(device="cuda", dtype="bfloat16", threads=4)
HERE = {"processor": "Abacus 9", "gpu": "Loom 3", "cores": 8}


@pytest.fixture(autouse=True)
def on_abacus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine", lambda: HERE)


def table(environment: Environment, **machine: Any) -> LatencyTable:
    return LatencyTable(
        environment, 2.0, 1.0, {"c": LatencyCurve((0, 1, 4), (0.0, 0.25, 1.0))}, {"group": "c"}, {**HERE, **machine}
    )


def test_a_table_of_this_machine_is_measured_here() -> None:
    assert measured_here(table(CPU), CPU)
    assert measured_here(table(GPU), GPU)


def test_what_the_device_does_not_use_is_not_compared() -> None:
    """A table for the processor was refused on the same processor with another GPU, with a message of two equal halves."""
    assert measured_here(table(CPU, gpu=None), CPU)
    assert measured_here(table(GPU, processor="Sliderule 1"), GPU)
    assert measured_here(table(replace(GPU, threads=16)), GPU)


def test_what_the_device_uses_is_compared() -> None:
    assert not measured_here(table(CPU, processor="Sliderule 1"), CPU)
    assert not measured_here(table(GPU, gpu="Loom 2"), GPU)
    assert not measured_here(table(GPU, gpu=None), GPU)
    assert not measured_here(table(replace(CPU, threads=2)), CPU)
    assert not measured_here(table(replace(GPU, batch_size=1)), GPU)
    assert not measured_here(table(GPU), CPU)


REFUSED = {
    "threads": (
        table(replace(CPU, threads=2)),
        {},
        "2 threads, torch, wall clock) on Abacus 9, and",
        "4 threads, torch, wall clock) on Abacus 9; add --elsewhere",
        "with --threads 2",
    ),
    "gpu": (
        table(GPU, gpu="Loom 2"),
        {"device": "cuda", "dtype": "bfloat16"},
        "torch, wall clock) on Loom 2, and",
        "torch, wall clock) on Loom 3; add --elsewhere",
        "cannot measure",
    ),
    "device": (
        table(replace(GPU, threads=16)),
        {},
        "cuda (bfloat16, batch 32, sequence 128, torch, wall clock) on Loom 3, and",
        "cpu (float32, batch 32, sequence 128, 4 threads, torch, wall clock) on Abacus 9; add --elsewhere",
        "with --device cuda --dtype bfloat16",
    ),
}


@pytest.mark.parametrize("difference", REFUSED)
def test_a_refusal_shows_what_differs(tmp_path: Path, difference: str) -> None:
    found, changes, of_table, of_recipe, end = REFUSED[difference]
    path = tmp_path / "table.json"
    found.save(path)
    values = {"model": "m", "task": "embedding", "data": "d", "speedup": 1.5, "threads": 4}
    recipe = Recipe.of({**values, "latency_table": str(path), **changes})
    with pytest.raises(RecipeError) as caught:
        given_table(recipe, None)
    message = str(caught.value)
    assert of_table in message
    assert of_recipe in message
    assert message.endswith(end)
    assert given_table(recipe.model_copy(update={"elsewhere": True}), None) is not None
