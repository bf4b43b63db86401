"""The states in front of the first layer, and the input of the head, without running the layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.refits import prepared
from secateurs.oneshot import walk_state
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.layer_walk import LayerWalk
from secateurs.oneshot.shared_arguments import SharedArguments
from secateurs.oneshot.walk_state import FirstStates
from secateurs.structure.layers import layer_paths

SKIPPABLE = ["albert", "bert", "deberta", "falcon", "gemma3_text", "llama", "modernbert", "mpnet", "vit"]
RETURNS_MORE = ["roformer", "t5"]
"""Their layers return attention weights or a position bias too, or are given the output of an encoder."""


def walked(model_type: str, starts: FirstStates) -> tuple[LayerWalk, Any]:
    """A walk through the pruned model, and the drift of the input of its head."""
    stitch, database, context, allocation = prepared(model_type)
    head = first_linear_of_head(context.model, stitch.structure, context.fit[0])
    walk = LayerWalk(context.model, stitch.structure, context.fit, head=head, starts=starts)
    for layer in walk.layers:
        for group in walk.enter(layer):
            stitch.install(group.name, database.level(group.name, allocation[group.name]))
        walk.leave()
    return walk, walk.head_drift() if head else None


@pytest.mark.parametrize("model_type", SKIPPABLE + RETURNS_MORE)
def test_layers_that_are_skipped_change_nothing(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = FirstStates()
    walk, drift = walked(model_type, starts)
    assert starts.skippable == (model_type in SKIPPABLE)
    monkeypatch.setattr(walk_state, "_same", lambda one, other: False)
    whole = FirstStates()
    other_walk, other_drift = walked(model_type, whole)
    assert not whole.skippable
    for state, other in zip(walk._states, other_walk._states, strict=True):
        torch.testing.assert_close(state.entries, other.entries, rtol=0, atol=0)
        assert str(state.calls) == str(other.calls)
    assert (drift is None) == (other_drift is None)
    if drift is not None:
        # Both in bfloat16 where that is fast; the modules behind the layers see the same numbers.
        torch.testing.assert_close(drift.moments.gram, other_drift.moments.gram)
        torch.testing.assert_close(drift.cross, other_drift.cross)


def test_layers_whose_arguments_depend_on_other_layers_are_run() -> None:
    """The second layer is given a mask that the first one computes."""
    stitch, _, context, _ = prepared("bert")
    first, second = (context.model.get_submodule(path) for path in layer_paths(context.model, stitch.structure)[:2])
    computed: list[Any] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        computed.append(output)

    def use(module: Any, args: Any) -> Any:
        return args[0], computed[-1][:, None, None, :, 0], *args[2:]

    first.register_forward_hook(keep)
    second.register_forward_pre_hook(use)
    starts = FirstStates()
    starts(context.model, stitch.structure, context.fit, None, "cpu")
    assert not starts.skippable


def test_batches_of_one_shape_share_their_position_bias() -> None:
    stitch, _, context, _ = prepared("mpnet")
    row = context.fit[0]
    batches = [row, {name: value.flip(0) for name, value in row.items()}]
    one, other = FirstStates(padding=True)(context.model, stitch.structure, batches, None, "cpu")
    same = [
        mine is theirs
        for path, calls in one.calls.items()
        for (args, kwargs), (other_args, other_kwargs) in zip(calls, other.calls[path], strict=True)
        for mine, theirs in zip((*args, *kwargs.values()), (*other_args, *other_kwargs.values()), strict=True)
        if isinstance(mine, torch.Tensor) and mine.ndim == 4 and mine.shape[1] > 1  # a bias by head, and no mask
    ]
    assert same and all(same)
    assert not torch.equal(one.entries[next(iter(one.entries))], other.entries[next(iter(other.entries))])


def test_equal_arguments_are_kept_once_and_counted_once() -> None:
    shared = SharedArguments()
    bias, mask = torch.ones(2, 3), torch.zeros(2)
    first = shared({"layer.0": [((bias,), {"mask": mask, "flag": True})], "layer.1": [((bias,), {"mask": mask})]})
    second = shared({"layer.0": [((torch.ones(2, 3),), {"mask": torch.ones(2)})]})
    assert first["layer.0"][0][0][0] is first["layer.1"][0][0][0] is second["layer.0"][0][0][0] is bias
    assert first["layer.0"][0][1] == {"mask": mask, "flag": True}
    assert second["layer.0"][0][1]["mask"].tolist() == [1.0, 1.0]
    assert shared.nbytes == bias.nbytes + 2 * mask.nbytes
