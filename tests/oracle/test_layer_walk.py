"""The regressions that a layer walk gathers, against plain least squares; and the memory that it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle.refits import Batches, inputs_of, prepared, ridge
from secateurs.numerics.regression import RegressionSums
from secateurs.oneshot import layer_walk
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.layer_walk import LayerWalk
from secateurs.oneshot.levels import Level
from secateurs.oneshot.stitch import Stitch
from secateurs.oneshot.walk_state import FirstStates
from secateurs.structure.families import discover
from secateurs.structure.layers import layer_paths
from secateurs.structure.structure import Group
from tiny_models import batch, without_layer


def refit_in_order(
    stitch: Stitch, batches: Batches, solve: Callable[[Group, RegressionSums], Level], **how: Any
) -> None:
    """The loop of ``sequential_refit`` with another solution per group, and without a change of input projections."""
    stitch.reset_all()
    walk = LayerWalk(stitch.model, stitch.structure, batches, **how)
    for layer in walk.layers:
        for group in walk.enter(layer):
            if walk.input_drifts:
                for paths in group.inputs:
                    walk.input_drift(group, paths[0])
            stitch.install(group.name, solve(group, walk.output_regression(group)))
        walk.leave()


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "granite", "gemma2"])
def test_the_first_projection_is_the_ridge_solution(model_type: str) -> None:
    """No group before it is pruned: its inputs are those of the dense model, and its target is its own dense output."""
    stitch, database, context, allocation = prepared(model_type)
    group = next(iter(context.structure))
    x = inputs_of(context.model, group.output_projection, context.fit)
    dense = database.projections[group.name]
    t = x @ dense.weight.T + (0 if dense.bias is None else dense.bias)
    towards = dense.weight * 0.9  # not the solution
    solved: dict[str, Tensor] = {}

    def solve(group: Group, sums: RegressionSums) -> Level:
        held = database.projections[group.name].weight if solved else towards
        solved[group.name] = sums.solve(held, dense.bias, 0.1)[0]
        return database.level(group.name, allocation[group.name])

    refit_in_order(stitch, context.fit, solve)
    wanted = ridge(x, t, towards, 0.1, dense.bias is not None)
    torch.testing.assert_close(solved[group.name], wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("removed", [0, 1, 2])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_layers_without_units_are_walked_through(model_type: str, removed: int) -> None:
    """Nothing else is pruned, so the solution of every group is its dense projection."""
    model = without_layer(model_type, removed).float()
    structure = discover(model)
    stitch = Stitch(model, structure)
    batches = [dict(batch(length=12, padding="right", seed=seed)) for seed in range(2)]
    solved = []

    def solve(group: Group, sums: RegressionSums) -> Level:
        weight, bias = stitch.weight(group.name), stitch.bias(group.name)
        wanted, shift = sums.solve(weight, bias, 0.1)
        torch.testing.assert_close(wanted, weight, rtol=0, atol=0.1)  # the forward passes are in bfloat16
        if bias is not None:
            torch.testing.assert_close(shift, bias, rtol=0, atol=0.1)
        solved.append(group.name)
        return Level(torch.arange(group.size), weight, bias)

    refit_in_order(stitch, batches, solve)
    assert solved == [group.name for group in structure]
    head = first_linear_of_head(model, structure, batches[0])
    assert head is None or not head.startswith(tuple(layer_paths(model, structure)))


def test_the_first_batches_that_fit_into_memory_are_used() -> None:
    stitch, database, context, allocation = prepared("bert")
    counts = []

    def solve(group: Group, sums: RegressionSums) -> Level:
        counts.append(sums.moments.count)
        return database.level(group.name, allocation[group.name])

    refit_in_order(stitch, context.fit, solve, starts=FirstStates(memory_bytes=1))
    assert set(counts) == {float(context.fit[0]["attention_mask"].sum())}


@pytest.mark.parametrize(
    "model_type", ["albert", "bart", "bert", "falcon", "gptj", "llama", "modernbert", "olmo2", "t5"]
)
def test_outputs_of_solved_blocks_that_are_remembered_change_nothing(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_fit() -> Tensor:
        stitch, database, context, allocation = prepared(model_type)
        fits: list[Tensor] = []

        def solve(group: Group, sums: RegressionSums) -> Level:
            fits.extend([sums.cross, sums.moments.gram])
            return database.level(group.name, allocation[group.name])

        refit_in_order(stitch, context.fit, solve, input_drifts=True)
        return torch.cat([fit.flatten() for fit in fits])

    remembering = last_fit()
    used = []

    def computed_again(module: Any, outputs: dict[str, Any], name: str) -> Any:
        used.append(name)
        return nullcontext()

    monkeypatch.setattr(layer_walk, "remembered", computed_again)
    torch.testing.assert_close(remembering, last_fit(), rtol=0, atol=0)
    assert bool(used) == (model_type != "albert")  # whose layer is used several times


@contextmanager
def only_new_objects() -> Iterator[None]:
    """``gc`` sees the objects made inside alone; a collection of all others would take seconds."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_hidden_states_are_kept_in_front_of_one_layer_only(model_type: str) -> None:
    """The memory for hidden states does not grow with the number of layers; it limits the texts that a fit can use."""
    stitch, database, context, allocation = prepared(model_type)
    model: Any = context.model
    shape = (*context.fit[0]["input_ids"].shape, model.config.hidden_size)
    alive = []

    def solve(group: Group, sums: RegressionSums) -> Level:
        gc.collect()
        alive.append(sum(type(found) is Tensor and found.shape == shape for found in gc.get_objects()))
        return database.level(group.name, allocation[group.name])

    with only_new_objects():
        refit_in_order(stitch, context.fit, solve, input_drifts=True)
    assert len(layer_paths(model, context.structure)) > 1
    assert 2 * len(context.fit) <= max(alive) <= (2 + 2 * 2) * len(context.fit)


def test_tokens_count_by_their_weight() -> None:
    """A token of weight 0 counts like PAD, a token of weight 2 like two tokens."""
    stitch, database, context, allocation = prepared("bert")
    weighed = dict(context.fit[0])
    found: list[dict[str, Tensor]] = []

    def weigh(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = torch.tensor([2.0, 0.0, 1.0])[:, None].expand(batch["input_ids"].shape)
        return {group.name: weights for group in context.structure}

    def gather(batches: Batches, **how: Any) -> None:
        sums_of: dict[str, Tensor] = {}

        def solve(group: Group, sums: RegressionSums) -> Level:
            sums_of[f"{group.name}.gram"], sums_of[f"{group.name}.cross"] = sums.moments.gram, sums.cross
            return database.level(group.name, allocation[group.name])

        refit_in_order(stitch, batches, solve, **how)
        found.append(sums_of)

    assert len(weighed["input_ids"]) == 3
    gather([weighed], token_weights=weigh)
    gather([{name: value[[0, 0, 2]] for name, value in weighed.items()}])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
