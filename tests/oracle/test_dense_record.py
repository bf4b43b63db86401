"""What calibration keeps of the dense model saves the dense layers of the last fit, and changes nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle.refits import prepared
from secateurs.oneshot import layer_walk, token_weights
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.dense_record import DenseRecord
from secateurs.oneshot.sequential_refit import Refit, sequential_refit
from secateurs.oneshot.token_weights import TokenWeights
from secateurs.oneshot.walk_state import FirstStates
from secateurs.structure.layers import layer_paths

HOW = Refit(damping=0.01, output_ridge=0.1, drift_ridge=0.1, spare=0.25)


def rows(outputs: Any, batch: Any) -> Tensor:
    return outputs.logits.flatten(0, -2)


def refitted(model_type: str, *, memory: float, weighs: bool = True) -> tuple[dict[str, Tensor], int]:
    """The fitted weights, and the runs of the first layer in the last fit."""
    stitch, database, context, allocation = prepared(model_type)
    model, structure = context.model, context.structure
    weigh = TokenWeights(model, structure, rows) if weighs else None
    record = DenseRecord(model, structure, input_drifts=True, memory_bytes=memory)
    calibrate(model, structure, context.fit, weigh=weigh, record=record)
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    model.get_submodule(layer_paths(model, structure)[0]).register_forward_pre_hook(count)
    starts = FirstStates(record=record)
    levels = sequential_refit(
        stitch, database, allocation, context, context.fit, HOW, starts=starts, token_weights=weigh
    )
    return {name: level.weight for name, level in levels.items()}, runs


@pytest.mark.parametrize(
    "model_type", ["bert", "falcon", "gpt2", "llama", "modernbert", "mpnet", "opt", "t5", "gemma2"]
)
def test_a_record_changes_nothing(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (layer_walk, token_weights):
        monkeypatch.setattr(module, "autocast_if_fast", lambda device: nullcontext())
    found, runs = refitted(model_type, memory=1e9)
    wanted, more = refitted(model_type, memory=0)
    assert more - runs == 5, "one dense run of every batch"
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_rows_that_were_run_in_parts_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_weights, "tokens_per_pass", lambda model, structure: 24)  # one row
    _, _, context, _ = prepared("bert")
    structure = context.structure
    record = DenseRecord(context.model, structure, input_drifts=True)
    weigh = TokenWeights(context.model, structure, rows)
    calibrate(context.model, structure, context.fit[:1], weigh=weigh, record=record)
    whole = DenseRecord(context.model, structure, input_drifts=True)
    calibrate(context.model, structure, context.fit[:1], record=whole)
    assert len({id(value) for value in record.of(context.fit[0]).values()}) == 1 + 4 * 3  # of 3 layers
    torch.testing.assert_close(dict(record.of(context.fit[0])), dict(whole.of(context.fit[0])), rtol=1e-2, atol=1e-2)


def test_the_first_batches_that_fit_are_kept() -> None:
    _, _, context, _ = prepared("bert")
    record = DenseRecord(context.model, context.structure, input_drifts=True)
    calibrate(context.model, context.structure, context.fit[:1], record=record)
    one = sum({id(value): value.nbytes for value in record.of(context.fit[0]).values()}.values())
    some = DenseRecord(context.model, context.structure, input_drifts=True, memory_bytes=2.5 * one)
    calibrate(context.model, context.structure, context.fit, record=some)
    assert [bool(some.of(batch)) for batch in context.fit] == [True, True, False, False, False]
    assert not some.of(dict(context.fit[0])), "another object"


def test_layers_that_are_used_several_times_run_again() -> None:
    found, runs = refitted("albert", memory=1e9)
    wanted, more = refitted("albert", memory=0)
    assert runs == more
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_without_weights_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_walk, "autocast_if_fast", lambda device: nullcontext())
    (found, runs), (wanted, more) = (refitted("bert", memory=memory, weighs=False) for memory in (1e9, 0))
    assert more - runs == 5
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
