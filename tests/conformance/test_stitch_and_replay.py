"""Stitched == shrunk, and replayed == run, for every family: what the search measures is what the user gets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from secateurs.families import discover, model_types
from secateurs.layers import layer_paths
from secateurs.mask import Mask
from secateurs.shrink import shrink
from secateurs.stages.replay import Replay
from secateurs.stages.stitch import Stitch
from secateurs.structure import Structure
from tiny_models import batch, tiny_model, without_layer


def odd_units(structure: Structure) -> dict[str, torch.Tensor]:
    """Uneven everywhere; the second group is emptied."""
    units = {}
    for number, group in enumerate(structure):
        kept = torch.arange(group.size) % 3 != number % 3
        units[group.name] = torch.arange(0) if number == 1 else kept.nonzero().flatten()
    return units


def stitched(model: Any) -> tuple[Stitch, dict[str, torch.Tensor]]:
    structure = discover(model)
    stitch = Stitch(model, structure)
    units = odd_units(structure)
    for group in structure:
        kept = units[group.name]
        columns = (kept[:, None] * group.width + torch.arange(group.width)).flatten()
        bias = stitch.bias(group.name)
        stitch.install(
            group.name, kept, 1.5 * stitch.weight(group.name)[:, columns], None if bias is None else bias + 1
        )
    return stitch, units


@torch.no_grad()
def logits(model: Any, inputs: Any) -> torch.Tensor:
    return model(**inputs, use_cache=False).logits if model.config.is_encoder_decoder else model(**inputs).logits


@pytest.mark.parametrize("model_type", model_types())
def test_stitched_equals_shrunk_and_reset_is_exact(model_type: str) -> None:
    model, inputs = tiny_model(model_type), batch(padding="right")
    before, names = logits(model, inputs), {name: value.shape for name, value in model.named_parameters()}
    stitch, units = stitched(model)
    small = logits(model, inputs)
    for name, kept in units.items():
        group = stitch.structure[name]
        columns = (kept[:, None] * group.width + torch.arange(group.width)).flatten()
        bias = stitch.bias(name)
        stitch.mask(name, kept, 1.5 * stitch.weight(name)[:, columns], None if bias is None else bias + 1)
    masked = logits(model, inputs)
    mask = Mask.from_units(stitch.structure, units)
    shrunk = logits(shrink(copy.deepcopy(model), stitch.structure, mask), inputs)
    torch.testing.assert_close(small, shrunk, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked, shrunk, rtol=0, atol=1e-12)
    assert (small - before).abs().max() > 1e-3
    stitch.reset_all()
    assert torch.equal(logits(model, inputs), before)
    assert {name: value.shape for name, value in model.named_parameters()} == names


@pytest.mark.parametrize("gone", [None, 1, 2])
@pytest.mark.parametrize("model_type", model_types())
def test_replay_from_any_layer_equals_a_whole_run(model_type: str, gone: int | None) -> None:
    model = without_layer(model_type, gone)
    structure = discover(model)
    batches = [dict(batch(padding="right", seed=seed)) for seed in (1, 2)]
    replay = Replay(model, layer_paths(model, structure), batches)

    def read(outputs: Any, inputs: Any) -> torch.Tensor:
        return outputs.logits

    recorded = replay.record(read)
    for layer in structure.layers:
        for ours, whole in zip(replay.run(read, layer), recorded, strict=True):
            torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
    last = list(structure.layers)[-1]
    group = structure.layers[last][0]
    with torch.no_grad():
        model.get_parameter(group.reader_cut.parameter).mul_(0.5)
    changed = [read(model(**inputs), inputs).detach() for inputs in batches]
    for ours, whole, old in zip(replay.run(read, last), changed, recorded, strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
        assert not torch.equal(ours, old)
    # Without room for the states everything is computed again, and comes out the same.
    poor = Replay(model, layer_paths(model, structure), batches, memory_bytes=0)
    for ours, whole in zip(poor.record(read), changed, strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
    for ours, whole in zip(poor.run(read, last), changed, strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
