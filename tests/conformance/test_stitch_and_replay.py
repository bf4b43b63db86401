"""For every family: a stitched model equals the shrunk model, and a replayed pass equals a full pass.

The search therefore measures the model that the user gets.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secateurs.oneshot.levels import Level
from secateurs.oneshot.replay import Replay
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.families import discover, model_types
from secateurs.structure.layers import layer_paths
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink
from tiny_models import batch, copied, tiny_model, tiny_structure, without_layer

pytestmark = pytest.mark.usefixtures("norms_in_fp64")


def uneven_levels(stitch: Stitch) -> dict[str, Level]:
    """Levels with other weights and biases, without a third of the units of every group and all units of the second."""
    levels = {}
    for number, group in enumerate(stitch.structure):
        kept = (torch.arange(group.size) % 3 != number % 3).nonzero().flatten()
        units = torch.arange(0) if number == 1 else kept
        columns = (units[:, None] * group.width + torch.arange(group.width)).flatten()
        bias = stitch.bias(group.name)
        weight = 1.5 * stitch.weight(group.name)[:, columns]
        levels[group.name] = Level(units, weight, None if bias is None else bias + 1)
    return levels


@torch.no_grad()
def logits(model: Any, inputs: Any) -> torch.Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize("model_type", model_types())
def test_stitched_equals_shrunk_and_reset_is_exact(model_type: str) -> None:
    model = tiny_model(model_type)
    inputs = batch(model, padding="right")
    before, names = logits(model, inputs), {name: value.shape for name, value in model.named_parameters()}
    stitch = Stitch(model, tiny_structure(model_type))
    levels = uneven_levels(stitch)
    for name, level in levels.items():
        stitch.install(name, level)
    small = logits(model, inputs)
    for name, level in levels.items():
        stitch.mask(name, level)
    masked = logits(model, inputs)
    mask = Mask.from_units(stitch.structure, {name: level.units for name, level in levels.items()})
    shrunk = logits(shrink(copied(model), stitch.structure, mask), inputs)
    torch.testing.assert_close(small, shrunk, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked, shrunk, rtol=0, atol=1e-12)
    assert (small - before).abs().max() > 1e-3
    stitch.reset_all()
    assert torch.equal(logits(model, inputs), before)
    assert {name: value.shape for name, value in model.named_parameters()} == names


@pytest.mark.parametrize("removed", [None, 1])
@pytest.mark.parametrize("model_type", model_types())
def test_replay_from_any_layer_equals_a_full_pass(model_type: str, removed: int | None) -> None:
    model = without_layer(model_type, removed)
    structure = discover(model)
    seeds = (1, 2) if removed is None else (1,)
    batches = [dict(batch(model, padding="right", seed=seed)) for seed in seeds]
    replay = Replay(model, layer_paths(model, structure), batches)

    def read(outputs: Any, inputs: Any) -> torch.Tensor:
        return outputs.logits

    recorded = replay.record(read)
    for layer in structure.layers:
        for replayed, full in zip(replay.run(read, layer), recorded, strict=True):
            torch.testing.assert_close(replayed, full, rtol=0, atol=1e-12)
    last = list(structure.layers)[-1]
    group = structure.layers[last][0]
    with torch.no_grad():
        model.get_parameter(group.output_cut.parameter).mul_(0.5)
    changed = [read(model(**inputs), inputs).detach() for inputs in batches]
    for replayed, full, old in zip(replay.run(read, last), changed, recorded, strict=True):
        torch.testing.assert_close(replayed, full, rtol=0, atol=1e-12)
        assert not torch.equal(replayed, old)
    if removed is not None:  # what follows does not depend on the structure
        return
    # Without memory for the states everything is computed again, with the same result.
    without_memory = Replay(model, layer_paths(model, structure), batches, memory_bytes=0)
    for replayed, full in zip(without_memory.record(read), changed, strict=True):
        torch.testing.assert_close(replayed, full, rtol=0, atol=1e-12)
    for replayed, full in zip(without_memory.run(read, last), changed, strict=True):
        torch.testing.assert_close(replayed, full, rtol=0, atol=1e-12)
