"""Moments of calibration against sums over single tokens, with token weights from one backward pass and from several."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracle import naive
from secateurs.oneshot import backward
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.token_weights import TokenWeights
from secateurs.oneshot.windows import windows
from secateurs.structure.families import discover
from secateurs.structure.structure import Structure
from secateurs.tasks.base import model_inputs
from tiny_models import VOCABULARY, tiny_model

LENGTH = 64


def logits(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    """Logits of every token but PAD."""
    return outputs.logits[batch["attention_mask"].bool()]


def batch_of(tokens: int) -> dict[str, Tensor]:
    """A batch with this number of tokens, seven of them PAD."""
    ids = torch.randint(2, VOCABULARY, (tokens // LENGTH, LENGTH), generator=torch.Generator().manual_seed(5))
    present = torch.ones_like(ids)
    present[0, -7:] = 0
    return {"input_ids": ids, "attention_mask": present}


def inputs_of(model: nn.Module, path: str, batch: dict[str, Tensor]) -> Tensor:
    """The input of one module in one forward pass, in float64, without PAD."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**model_inputs(batch))
    handle.remove()
    return seen[0][batch["attention_mask"].bool()].double()


@pytest.mark.parametrize("passes", [1.0, 1.5, 2.0])
def test_moments_contain_every_token_however_many_backward_passes_weigh_them(
    passes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and moments come from the same passes of at most so many tokens."""
    model = tiny_model("bert").float()
    structure = discover(model)
    monkeypatch.setattr(backward, "TOKENS", 4 * LENGTH)
    assert backward.tokens_per_pass(model, structure) == 4 * LENGTH
    batch = batch_of(int(passes * 4 * LENGTH))
    weigh = TokenWeights(model, structure, logits)
    found = calibrate(model, structure, [batch], weigh=weigh)
    weights = weigh(batch)
    for group in structure:
        gram, total, count = naive.moments(
            inputs_of(model, group.output_projection, batch),
            weights[group.name][batch["attention_mask"].bool()].double(),
        )
        ours = found[group.name]
        assert ours.count == pytest.approx(count, rel=1e-5)
        torch.testing.assert_close(ours.gram, gram, rtol=0, atol=1e-5 * float(gram.abs().max()))
        torch.testing.assert_close(ours.total, total, rtol=0, atol=1e-5 * float(gram.abs().max()))


def test_deep_models_have_fewer_tokens_per_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert")
    structure = discover(model)
    assert len(structure.layers) <= backward.LAYERS
    assert backward.tokens_per_pass(model, structure) == backward.TOKENS
    monkeypatch.setattr(backward, "LAYERS", 1)
    assert backward.tokens_per_pass(model, structure) == backward.TOKENS // len(structure.layers)


def test_windows_of_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later window takes the weights of the first one, and forward passes alone."""
    model = tiny_model("bert").float()
    structure = discover(model)
    weigh, backwards = TokenWeights(model, structure, logits), []
    observe = weigh.observe

    def observed(batch: dict[str, torch.Tensor], wanted: Collection[str]) -> Any:
        backwards.append(1)
        weights, inputs = observe(batch, wanted)
        assert inputs.keys() == set(wanted), "inputs of other groups only take memory"
        return weights, inputs

    monkeypatch.setattr(weigh, "observe", observed)
    batches = [batch_of(2 * LENGTH), batch_of(3 * LENGTH)]
    whole = calibrate(model, structure, batches, weigh=weigh)
    assert len(backwards) == len(batches)
    for window in windows(structure, lambda group: 1.0, limit=2.0):
        assert len(window) <= 2
        for name, own in calibrate(model, Structure(window), batches, weigh=weigh).items():
            torch.testing.assert_close(own.gram, whole[name].gram, rtol=1e-5, atol=1e-5)
    assert len(backwards) == len(batches)


def test_no_hook_is_left_on_the_model() -> None:
    model = tiny_model("bert").float()
    structure = discover(model)
    for weigh in (None, TokenWeights(model, structure, logits)):
        calibrate(model, structure, [batch_of(2 * LENGTH)], weigh=weigh)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
