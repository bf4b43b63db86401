"""``LayerMatching``: which student layer is matched with which teacher layer, and which tokens the loss counts."""

from __future__ import annotations

import pytest
import torch

from secateurs.gates.layer_matching import LayerMatching, Matching, match, teacher_layers


def hidden(layers: int, width: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, width, generator=generator) for _ in range(layers + 1)]


TOKENS = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()


def test_ordered_matches_by_layer_and_not_by_rank() -> None:
    """Layers 8 to 11 are removed: they are never matched, even if they are nearest. The authors' code matches them."""
    distances = torch.stack([(torch.arange(12) - 2 * row).abs().float() + 1 for row in range(4)])
    distances[:, 8:] = 0.0
    kept = [layer < 8 for layer in range(12)]
    assert match(distances, kept, ordered=True) == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert all(layer < 8 for _, layer in match(distances, kept, ordered=False))


def test_a_reversed_student() -> None:
    """Teacher layers 3, 6, 9 and 12, and a student with its layers in reverse order."""
    distances = torch.stack([(torch.arange(12) - (9 - 3 * row)).abs().float() for row in range(4)])
    everything = [True] * 12
    assert [layer for _, layer in match(distances, everything, ordered=False)] == [9, 6, 3, 0]
    assert match(distances, everything, ordered=True) == [
        (3, 0)
    ]  # no layer is left below layer 0: the other teacher layers are dropped


def test_without_kept_layers_the_loss_is_zero() -> None:
    matching = LayerMatching(4, 4)
    loss = matching(hidden(3, 4, 0), hidden(3, 4, 1), TOKENS, [False] * 3)
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("matching", ["any", "ordered"])
def test_equal_hidden_states_have_no_loss(matching: Matching) -> None:
    states = hidden(6, 8, 0)
    assert LayerMatching(8, 8, matching=matching)(states, states, TOKENS, [True] * 6).item() == 0


def test_padding_does_not_count() -> None:
    ours, theirs = hidden(3, 8, 0), hidden(3, 8, 1)
    module = LayerMatching(8, 8)
    before = module(ours, theirs, TOKENS, [True] * 3)
    for states in ours:
        states[~TOKENS] = 1e3
    assert torch.equal(module(ours, theirs, TOKENS, [True] * 3), before)


def test_a_narrower_student_starts_with_the_leading_part_of_the_identity() -> None:
    ours = hidden(2, 4, 0)
    theirs = [torch.cat([states, torch.zeros(2, 5, 2)], -1) for states in ours]
    assert LayerMatching(4, 6)(ours, theirs, TOKENS, [True] * 2).item() == 0


def test_random_layers_are_drawn_for_each_step() -> None:
    theirs = hidden(12, 4, 1)
    ours = [states + 0.01 * index for index, states in enumerate(theirs)]
    module = LayerMatching(4, 4, matching="random")
    losses = [module(ours, theirs, TOKENS, [True] * 12, step).item() for step in (0, 0, 1, 2, 3)]
    assert losses[0] == losses[1]
    assert len(set(losses)) > 1


def test_the_last_teacher_layer_is_always_matched() -> None:
    for count in range(1, 30):
        layers = teacher_layers(count)
        assert layers[-1] == count - 1
        assert len(set(layers)) == min(4, count)
