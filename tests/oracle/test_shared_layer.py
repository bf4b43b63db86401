"""A layer that is used several times, against a model that has a copy of it for every use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from secateurs.context import PruneContext
from secateurs.errors import UnsupportedModelError
from secateurs.methods.cofi.settings import CoFiSettings
from secateurs.methods.cofi.steps import FittedCoFi
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.layer_walk import LayerWalk
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import zero_masked
from secateurs.tasks.text_classification.task import TextClassification
from tiny_models import batch, tiny_model

BATCHES = [dict(batch(padding="right", seed=seed)) for seed in (1, 2)]
USES = 3


def inputs_of(model, path: str, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The input of a module in every use, for the tokens that count."""
    seen: list[torch.Tensor] = []
    mask = inputs["attention_mask"].bool()
    handle = model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0][mask]))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen


def test_moments_are_sums_over_all_uses() -> None:
    model = tiny_model("albert")
    structure = discover(model)
    moments = calibrate(model, structure, BATCHES)
    for group in structure:
        uses = [inputs_of(model, group.output_projection, inputs) for inputs in BATCHES]
        assert [len(found) for found in uses] == [USES, USES]
        x = torch.cat([use for found in uses for use in found])
        assert moments[group.name].count == len(x)
        torch.testing.assert_close(moments[group.name].gram, x.T @ x, rtol=1e-5, atol=1e-4)  # fp32 products


def test_the_walk_takes_every_use_in_both_models() -> None:
    """The regression of the last group has the inputs of the pruned model, and aims at the stream of the dense model."""
    model = tiny_model("albert")
    structure = discover(model)
    heads, neurons = structure
    walk = LayerWalk(model, structure, BATCHES[:1], input_drifts=True)
    assert walk.layers == (heads.layer,)
    inputs = BATCHES[0]
    streams = inputs_of(model, neurons.stream, inputs)
    reads = inputs_of(model, neurons.input_projections[0], inputs)
    walk.enter(heads.layer)
    mask = Mask.from_units(structure, {heads.name: torch.tensor([1, 2])})
    zero_masked(model, structure, mask)
    drift, sums = walk.input_drift(neurons, neurons.input_projections[0]), walk.output_regression(neurons)
    x = torch.cat(inputs_of(model, neurons.output_projection, inputs))
    output = x @ model.get_submodule(neurons.output_projection).weight.T
    output = output + model.get_submodule(neurons.output_projection).bias
    wanted = torch.cat(streams) - (torch.cat(inputs_of(model, neurons.stream, inputs)) - output)
    for found, ours, target in (
        (sums, x, wanted),
        (drift, torch.cat(inputs_of(model, neurons.input_projections[0], inputs)), torch.cat(reads)),
    ):
        assert found.moments.count == len(ours) == USES * int(inputs["attention_mask"].sum())
        torch.testing.assert_close(found.moments.gram, ours.T @ ours, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.cross, target.T @ ours, rtol=1e-5, atol=1e-4)


def test_cofi_does_not_match_layers_that_are_one() -> None:
    model = tiny_model("albert")
    context = PruneContext(model, discover(model), BATCHES, TextClassification(), Path())
    with pytest.raises(UnsupportedModelError, match="several times"):
        FittedCoFi(CoFiSettings(), context)


def test_several_shared_layers_are_refused() -> None:
    for field, value in (("num_hidden_groups", 3), ("inner_group_num", 2)):
        changes: dict[str, Any] = {field: value}
        with pytest.raises(UnsupportedModelError, match="used several times"):
            discover(tiny_model("albert", **changes))
