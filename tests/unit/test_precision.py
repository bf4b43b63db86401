"""Autocast to bfloat16: dtypes of products, and the size of its effect on recorded outputs."""

from __future__ import annotations

import pytest
import torch

from secateurs.numerics.precision import autocast_if_fast, native_bfloat16
from secateurs.oneshot.replay import Replay
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_paths
from tiny_models import tiny_model


def test_products_are_bfloat16_only_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.ones(2, 2)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("secateurs.numerics.precision.native_bfloat16", lambda device, native=native: native)
        with autocast_if_fast("cpu"):
            assert (a @ a).dtype is dtype
        assert (a @ a).dtype is torch.float32


def test_an_unknown_device_has_no_native_bfloat16() -> None:
    assert not native_bfloat16("meta")


def test_recorded_outputs_under_autocast_are_close_and_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateurs.numerics.precision.native_bfloat16", lambda device: True)
    model = tiny_model("bert").float()
    structure = discover(model)
    batches = [{"input_ids": torch.randint(5, 40, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}]
    read = lambda outputs, batch: outputs[0].float()  # noqa: E731
    exact = Replay(model, layer_paths(model, structure), batches).record(read)[0]
    quick = Replay(model, layer_paths(model, structure), batches, quick=True)
    recorded = quick.record(read)[0]
    assert not torch.equal(recorded, exact)
    assert (recorded - exact).norm() < 0.02 * exact.norm()
    # Starting from a cached layer gives bitwise the same outputs.
    assert torch.equal(next(quick.run(read, list(structure.layers)[-1])), recorded)
