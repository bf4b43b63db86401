"""Token weights against their definition: the gradient of the outputs at the residual stream of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from secateurs.errors import CalibrationError
from secateurs.oneshot import backward, token_weights
from secateurs.oneshot.calibrate import calibrate
from secateurs.oneshot.token_weights import FLOOR, TokenWeights, directions
from secateurs.structure.families import discover, model_types
from secateurs.tasks.base import main_input
from tiny_models import batch, tiny_model


def logits(outputs, batch) -> torch.Tensor:
    """Logits of every token but PAD."""
    if "decoder_input_ids" in batch:  # without padding
        return outputs.logits.flatten(0, 1)
    mask = batch.get("attention_mask")  # images have none
    return outputs.logits if mask is None else outputs.logits[mask.bool()]


def keep(seen: list[torch.Tensor], module, args, output: torch.Tensor) -> None:
    """A forward hook that records the input of the module."""
    seen.append(args[0])


@contextmanager
def hooked(module: torch.nn.Module, hook: Callable) -> Iterator[None]:
    """Register a forward hook for the time of the context."""
    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


def step(added: Iterator[torch.Tensor], dimension: int, module, args, output: torch.Tensor) -> torch.Tensor:
    """A forward hook that adds the next tensor to one dimension of the output."""
    unit = torch.nn.functional.one_hot(torch.tensor(dimension), output.shape[-1])
    return output + next(added).reshape(*output.shape[:-1], 1) * unit.to(output)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("model_type", model_types())
def test_a_weight_is_the_length_of_the_gradient(model_type: str) -> None:
    """The gradient is computed again, by autograd with respect to a difference added to the output of a projection."""
    model = tiny_model(model_type).double()
    structure = discover(model)
    inputs = dict(batch(model, length=7, padding="right"))
    found = TokenWeights(model, structure, logits)(inputs)
    with torch.no_grad():
        drawn = generator(int(main_input(inputs).sum()))
        directed = directions(logits(model(**inputs), inputs), drawn)
    for group in structure:
        *uses, rows, tokens = found[group.name].shape  # those of the decoder in a decoder
        added = torch.zeros(*uses, rows, tokens, 1, dtype=torch.float64, requires_grad=True)
        squared = torch.zeros(*uses, rows, tokens, dtype=torch.float64)
        config = getattr(model.config, "vision_config", model.config)
        for dimension in range(config.hidden_size):
            every_use = iter(added if uses else [added])
            with hooked(model.get_submodule(group.output_projection), partial(step, every_use, dimension)):
                projected = (logits(model(**inputs), inputs) * directed).sum()
            squared += torch.autograd.grad(projected, added)[0][..., 0] ** 2
        wanted = (squared + FLOOR * squared.mean()).sqrt().float()
        torch.testing.assert_close(found[group.name].float(), wanted, rtol=1e-3, atol=1e-6)


def test_tokens_without_effect_on_the_outputs_get_the_floor() -> None:
    """A classifier uses one token of its last layer."""
    model = AutoModelForSequenceClassification.from_config(tiny_model("bert").config).eval()
    structure = discover(model)
    found = TokenWeights(model, structure, lambda outputs, batch: outputs.logits)(dict(batch(length=7)))
    last = found[list(structure)[-1].name]
    assert (last[:, 1:] == last[0, 1]).all()
    assert (last[:, 0] > 3 * last[:, 1]).all()
    first = found[next(iter(structure)).name]
    assert (first[:, 1:].std(-1) > 0).all()


def test_the_number_of_rows_per_backward_pass_does_not_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    structure = discover(model)
    inputs = dict(batch(length=12, padding="right"))
    assert len(inputs["input_ids"]) > 1
    # A fixed direction, because drawing in parts gives different random numbers.
    monkeypatch.setattr(
        token_weights, "directions", lambda outputs, generator: torch.linspace(-1, 1, outputs.shape[-1])
    )
    at_once = TokenWeights(model, structure, logits)(inputs)
    monkeypatch.setattr(backward, "TOKENS", 12)
    torch.testing.assert_close(TokenWeights(model, structure, logits)(inputs), at_once, rtol=1e-2, atol=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_directions_are_unit_vectors_of_mean_zero() -> None:
    drawn = directions(torch.zeros(5, 3), generator())
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(drawn.sum(-1), torch.zeros(5), atol=1e-6, rtol=0)
    assert directions(torch.zeros(4, 1), generator()).abs().eq(1).all()
    assert len(directions(torch.zeros(64, 3), generator())[:, 0].unique()) == 2  # one direction and its opposite


def test_a_batch_gets_the_same_weights_at_every_call() -> None:
    model = tiny_model("gpt2")
    weigh = TokenWeights(model, discover(model), logits, 5)
    first, other = dict(batch(length=5)), dict(batch(length=5, seed=2))
    once = weigh(first)
    between = weigh(other)
    torch.testing.assert_close(weigh(first), once, rtol=0, atol=0)
    assert not any(torch.equal(once[name], between[name]) for name in once)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = tiny_model("bert")
    weigh = TokenWeights(model, discover(model), lambda outputs, batch: outputs.logits[:, 0] * float("inf"))
    with pytest.raises(CalibrationError, match="gradients at"):
        weigh(dict(batch(length=5)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_parameters_stay_frozen() -> None:
    model = tiny_model("bert").requires_grad_(False)
    TokenWeights(model, discover(model), logits)(dict(batch(length=5)))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_moments_are_weighted_by_the_token_weights() -> None:
    model = tiny_model("bert")
    structure = discover(model)
    inputs = dict(batch(model, length=7, padding="right"))

    def first_logits(outputs, batch) -> torch.Tensor:
        return outputs.logits[:, 0]

    weights = TokenWeights(model, structure, first_logits, 3)(inputs)
    moments = calibrate(model, structure, [inputs], weigh=TokenWeights(model, structure, first_logits, 3))
    tokens = inputs["attention_mask"].bool()
    for group in structure:
        seen: list[torch.Tensor] = []
        with hooked(model.get_submodule(group.output_projection), partial(keep, seen)), torch.no_grad():
            model(**inputs)
        x, w = seen[0][tokens].double(), weights[group.name][tokens].double()
        torch.testing.assert_close(moments[group.name].gram, (x * w[:, None]).T @ x, rtol=1e-4, atol=1e-6)
        assert moments[group.name].count == pytest.approx(float(w.sum()))
