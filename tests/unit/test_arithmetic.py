"""Arithmetic of the search: what it promises about types, and how little it moves a divergence."""

from __future__ import annotations

import pytest
import torch

from secateurs.arithmetic import fast, native_bfloat16
from secateurs.families import discover
from secateurs.layers import layer_paths
from secateurs.stages.replay import Replay
from tiny_models import tiny_model


def test_products_are_short_where_that_is_faster_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.ones(2, 2)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("secateurs.arithmetic.native_bfloat16", lambda device, native=native: native)
        with fast("cpu"):
            assert (a @ a).dtype is dtype
        assert (a @ a).dtype is torch.float32


def test_an_unknown_processor_computes_in_full() -> None:
    assert not native_bfloat16("meta")


def test_candidates_computed_so_are_compared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateurs.arithmetic.native_bfloat16", lambda device: True)
    model = tiny_model("bert").float()
    structure = discover(model)
    batches = [{"input_ids": torch.randint(5, 40, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}]
    read = lambda outputs, batch: outputs[0].float()  # noqa: E731
    exact = Replay(model, layer_paths(model, structure), batches).record(read)[0]
    quick = Replay(model, layer_paths(model, structure), batches, quick=True)
    recorded = quick.record(read)[0]
    assert not torch.equal(recorded, exact)
    assert (recorded - exact).norm() < 0.02 * exact.norm()
    # From a cached layer on, the very same numbers.
    assert torch.equal(next(quick.run(read, list(structure.layers)[-1])), recorded)
