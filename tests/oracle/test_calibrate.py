"""Moments of calibration against every token written out: with weights, on batches that fill their parts and more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oracle import naive
from secateurs.families import discover
from secateurs.stages.calibrate import calibrate
from secateurs.stages.importance import TOKENS, Importance
from secateurs.tasks import model_inputs
from tiny_models import VOCABULARY, tiny_model

LENGTH = 64


def logits(outputs, batch) -> Tensor:
    """Of every token that is no PAD."""
    return outputs.logits[batch["attention_mask"].bool()]


def full_batch(tokens: int) -> dict[str, Tensor]:
    """So many tokens, a few of them PAD."""
    ids = torch.randint(2, VOCABULARY, (tokens // LENGTH, LENGTH), generator=torch.Generator().manual_seed(5))
    present = torch.ones_like(ids)
    present[0, -7:] = 0
    return {"input_ids": ids, "attention_mask": present}


def reads(model: nn.Module, path: str, batch: dict[str, Tensor]) -> Tensor:
    """What one module reads in one forward pass, in float64."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**model_inputs(batch))
    handle.remove()
    return seen[0][batch["attention_mask"].bool()].double()


@pytest.mark.parametrize("times", [1.0, 1.5, 2.0])
def test_weighing_in_parts_leaves_the_moments_of_the_whole_batch(times: float) -> None:
    """Weights are found in backward passes of at most ``TOKENS`` tokens, the moments in one pass of the batch."""
    model = tiny_model("bert").float()
    structure = discover(model)
    batch = full_batch(int(times * TOKENS))
    weigh = Importance(model, structure, logits)
    found = calibrate(model, structure, [batch], weigh=weigh)
    weights = weigh(batch)
    for group in structure:
        gram, total, count = naive.moments(
            reads(model, group.reader, batch), weights[group.name][batch["attention_mask"].bool()].double()
        )
        ours = found[group.name]
        assert ours.count == pytest.approx(count, rel=1e-5)
        torch.testing.assert_close(ours.gram, gram, rtol=0, atol=1e-5 * float(gram.abs().max()))
        torch.testing.assert_close(ours.total, total, rtol=0, atol=1e-5 * float(gram.abs().max()))


def test_no_hook_sees_a_pass_that_is_not_its_own() -> None:
    """A model that is run by whoever weighs the tokens, on other texts, leaves no trace in the moments."""
    model = tiny_model("bert").float()
    structure = discover(model)
    batch = full_batch(2 * LENGTH)
    other = {name: value[:1, :9] for name, value in batch.items()}

    def weigh(_: object) -> dict[str, Tensor]:
        with torch.no_grad():
            model(**model_inputs(other))
        return {}

    plain, disturbed = calibrate(model, structure, [batch]), calibrate(model, structure, [batch], weigh=weigh)
    for group in structure:
        assert torch.equal(plain[group.name].gram, disturbed[group.name].gram)
    assert not any(module._forward_hooks for module in model.modules())
