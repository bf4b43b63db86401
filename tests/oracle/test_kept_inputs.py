"""Inputs of output projections that are kept save runs of their blocks and change nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle.refits import prepared
from secateurs.oneshot import layer_walk
from secateurs.oneshot.sequential_refit import Refit, sequential_refit
from secateurs.structure.cut import Kind

HOW = Refit(damping=0.01, output_ridge=0.1, drift_ridge=0.1, spare=0.25)
AGAIN = {
    "albert": {Kind.HEAD, Kind.INTERMEDIATE},  # its layer is used several times
    "bart": {Kind.INTERMEDIATE},  # the block is the first linear module, in front of the activation
    "gemma2": {Kind.HEAD},  # returns attention weights too
    "olmo2": {Kind.HEAD},  # a norm takes its statistics over the kept heads
    "opt": {Kind.INTERMEDIATE},
    "t5": {Kind.HEAD},  # returns a position bias too
}
"""Model type -> kinds whose block runs again."""


def refitted(model_type: str) -> tuple[dict[str, Tensor], Tensor, dict[Kind, int]]:
    """The fitted weights, the logits, and the runs of input projections by kind."""
    stitch, database, context, allocation = prepared(model_type)
    allocation[next(iter(allocation))] = 0
    runs: dict[Kind, int] = {}

    def count(kind: Kind) -> Any:
        def hook(*_: Any) -> None:
            runs[kind] = runs.get(kind, 0) + 1

        return hook

    for group in context.structure:
        context.model.get_submodule(group.input_projections[0]).register_forward_hook(count(group.kind))
    levels = sequential_refit(stitch, database, allocation, context, context.fit, HOW)
    counted = dict(runs)
    with torch.inference_mode():
        logits = context.model(**context.fit[0]).logits
    return {name: level.weight for name, level in levels.items()}, logits, counted


@pytest.mark.parametrize("model_type", ["bert", "falcon", "gpt2", "llama", "modernbert", "mpnet", *AGAIN])
def test_kept_inputs_save_runs_and_change_nothing(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_walk, "autocast_if_fast", lambda device: nullcontext())
    weights, logits, runs = refitted(model_type)
    monkeypatch.setattr(layer_walk, "KEPT_BYTES", 0)
    wanted, wanted_logits, more = refitted(model_type)
    torch.testing.assert_close(weights, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-3, atol=1e-4)
    for kind in (Kind.HEAD, Kind.INTERMEDIATE):
        assert (runs[kind] < more[kind]) == (kind not in AGAIN.get(model_type, ())), kind


def test_some_batches_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the others run again."""
    found = []
    for batches in (5, 1, 0):
        monkeypatch.setattr(layer_walk, "KEPT_BYTES", batches * 3 * 24 * 32 * 4)  # every head of a batch
        found.append(refitted("bert"))
    every, one, none = (runs[Kind.HEAD] for *_, runs in found)
    assert every < one < none
    torch.testing.assert_close(found[1][0], found[2][0], rtol=1e-2, atol=1e-3)
