"""The states in front of the first layer, and the input of the head, without running the layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.refits import prepared
from secateurs.oneshot import walk_state
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.layer_walk import LayerWalk
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
