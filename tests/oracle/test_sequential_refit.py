"""The sequential refit against plain least squares; and its purpose: outputs closer to those of the dense model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from oracle.refits import inputs_of, prepared, ridge
from secateurs.numerics.hessian import Moments, damped
from secateurs.oneshot.head import first_linear_of_head
from secateurs.oneshot.levels import Level
from secateurs.oneshot.sequential_refit import TOKENS_PER_DIMENSION, Refit, preselected, sequential_refit
from secateurs.oneshot.stitch import Stitch
from secateurs.structure.families import discover, model_types
from secateurs.structure.structure import Structure
from tiny_models import DECODERS, ENCODER_DECODERS, batch, tiny_model

CORRECTED = Refit(damping=0.01, output_ridge=0.1, drift_ridge=0.05)


def ridge_of_drift(weight: Tensor, tokens: int) -> float:
    """The ridge of ``CORRECTED`` for this number of tokens."""
    assert CORRECTED.drift_ridge is not None
    return CORRECTED.drift_ridge * (1 + TOKENS_PER_DIMENSION * weight.shape[1] / tokens)


@pytest.mark.parametrize("model_type", model_types())
@pytest.mark.parametrize("drift_ridge", [None, 1e-4])
def test_the_residual_stream_comes_closer_to_the_dense_one(model_type: str, drift_ridge: float | None) -> None:
    """On the tokens of the fit. ``Stitch.reset_all`` then restores every tensor."""
    stitch, database, context, allocation = prepared(model_type)
    last = list(context.structure)[-1].stream
    dense = {name: value.clone() for name, value in context.model.state_dict().items()}
    wanted = inputs_of(context.model, last, context.fit)
    for name, kept in allocation.items():
        stitch.install(name, database.level(name, kept))
    before = (inputs_of(context.model, last, context.fit) - wanted).pow(2).mean()
    how = Refit(damping=1e-4, output_ridge=1e-4, drift_ridge=drift_ridge)
    sequential_refit(stitch, database, allocation, context, context.fit, how)
    after = (inputs_of(context.model, last, context.fit) - wanted).pow(2).mean()
    assert after < before
    assert model_type in DECODERS | ENCODER_DECODERS or after < 0.9 * before
    stitch.reset_all()
    assert all(torch.equal(value, dense[name]) for name, value in context.model.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "qwen2"])
def test_input_projections_are_fitted_to_their_own_dense_outputs(model_type: str) -> None:
    """The correction of their input equals the regression of their dense outputs on their inputs in the pruned model."""
    stitch, database, context, allocation = prepared(model_type)
    group = list(context.structure)[-1]
    allocation[group.name] = group.size  # so that no row of its input projections is removed
    before = inputs_of(context.model, group.input_projections[0], context.fit)
    linear = {path: stitch.linear(path) for path in group.input_projections}
    fitted = sequential_refit(stitch, database, allocation, context, context.fit, CORRECTED)
    after = inputs_of(context.model, group.input_projections[0], context.fit)
    assert not torch.allclose(before, after)
    for path, (weight, bias) in linear.items():
        wanted = ridge(after, before @ weight.T, weight, ridge_of_drift(weight, len(after)), bias is not None)
        found = stitch.oriented(path, fitted[group.name].input_projections[f"{path}.weight"])
        assert (wanted - weight).abs().max() > 2e-2
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3)  # sums of float32 products
        if bias is not None:
            shifted = bias + before.mean(0) @ weight.T - after.mean(0) @ wanted.T
            torch.testing.assert_close(fitted[group.name].input_projections[f"{path}.bias"], shifted, rtol=0, atol=5e-3)
            assert torch.equal(
                context.model.get_parameter(f"{path}.bias"), fitted[group.name].input_projections[f"{path}.bias"]
            )


def test_the_first_linear_module_of_the_head_is_corrected_too() -> None:
    stitch, database, context, allocation = prepared("bert")
    head = first_linear_of_head(context.model, context.structure, context.fit[0])
    assert head is not None
    weight, bias = stitch.linear(head)
    before = inputs_of(context.model, head, context.fit)
    sequential_refit(stitch, database, allocation, context, context.fit, CORRECTED)
    after = inputs_of(context.model, head, context.fit)
    wanted = ridge(after, before @ weight.T, weight, ridge_of_drift(weight, len(after)), bias is not None)
    assert (wanted - weight).abs().max() > 2e-2
    torch.testing.assert_close(context.model.get_parameter(f"{head}.weight").data, wanted, rtol=0, atol=5e-3)


def test_the_first_linear_module_of_the_head_is_found_unless_its_weight_is_shared() -> None:
    inputs = dict(batch())

    def found(model: Any) -> str | None:
        return first_linear_of_head(model, discover(model), inputs)

    for model_type, path in (
        ("bert", "bert.pooler.dense"),
        ("roberta", "classifier.dense"),
        ("distilbert", "pre_classifier"),
    ):
        assert found(AutoModelForSequenceClassification.from_config(tiny_model(model_type).config)) == path
    assert found(tiny_model("gpt2")) is None  # the output embedding is the input embedding
    assert found(tiny_model("llama")) == "lm_head"


@pytest.mark.parametrize("model_type", ["granite", "gemma2", "gemma3_text", "glm4", "dinov2"])
def test_the_fit_aims_at_what_is_really_added(model_type: str) -> None:
    """A refit that ignores the scale or the norm behind the projections ends farther from the dense residual stream."""

    def refitted(ignored: bool) -> float:
        stitch, database, context, allocation = prepared(model_type)
        last = list(context.structure)[-1].stream
        wanted = inputs_of(context.model, last, context.fit)
        if ignored:
            groups = (replace(group, scale=1.0, channel_scale="", post_norm="") for group in context.structure)
            stitch = Stitch(context.model, Structure(tuple(groups)))
        sequential_refit(stitch, database, allocation, context, context.fit, replace(CORRECTED, drift_ridge=None))
        return float((inputs_of(context.model, last, context.fit) - wanted).pow(2).mean())

    assert refitted(False) < 0.99 * refitted(True)


@pytest.mark.parametrize("spare", [0.25, 9.0])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "granite"])
def test_every_group_is_fitted_to_the_inputs_from_the_pruned_groups_before_it(model_type: str, spare: float) -> None:
    """The last group, after all others at their new levels: ``W*`` by hand, and the level that follows from it.

    With little to spare, ``W*`` is the solution on the units of a larger level of the database, held to its weights.
    """
    stitch, database, context, allocation = prepared(model_type)
    emptied, group = next(iter(context.structure)).name, list(context.structure)[-1]
    allocation[emptied] = 0
    wanted = inputs_of(context.model, group.stream, context.fit)
    how = replace(CORRECTED, drift_ridge=None, spare=spare)
    found = sequential_refit(stitch, database, allocation, context, context.fit, how)
    assert len(found[emptied].units) == 0

    first = database.level(group.name, preselected(group.size, allocation[group.name], spare))
    assert (len(first.units) == group.size) == (spare > 1)
    stitch.install(group.name, first)
    x = inputs_of(context.model, group.output_projection, context.fit)
    added = x @ first.weight.T + (0 if first.bias is None else first.bias)
    residual = inputs_of(context.model, group.stream, context.fit) - group.scale * added
    all_columns = ridge(x, (wanted - residual) / group.scale, first.weight, how.output_ridge, first.bias is not None)

    moments = Moments(x.shape[1], dtype=torch.float64)
    moments.update(x)
    hessian = damped(moments.gram if first.bias is None else moments.centred(), how.damping)
    level = found[group.name]
    assert len(level.units) == allocation[group.name]
    places = torch.searchsorted(first.units, level.units)
    assert torch.equal(first.units[places], level.units)
    columns = (places[:, None] * group.width + torch.arange(group.width)).flatten()
    kept = torch.linalg.solve(hessian[columns][:, columns], hessian[columns] @ all_columns.T)
    torch.testing.assert_close(level.weight, kept.T, rtol=0, atol=5e-3)  # sums of float32 products


def test_only_ratios_of_weights_matter() -> None:
    """The scale of the weights, which is that of a gradient, changes neither the fit nor the drift correction."""
    stitch, database, context, allocation = prepared("bert")
    drawn = torch.rand(context.fit[0]["input_ids"].shape, generator=torch.Generator().manual_seed(0)) + 0.1

    def fitted(scale: float) -> dict[str, Level]:
        def token_weights(batch: Any) -> dict[str, Tensor]:
            return {group.name: scale * drawn for group in context.structure}

        return sequential_refit(
            stitch, database, allocation, context, context.fit, CORRECTED, token_weights=token_weights
        )

    one, other = fitted(2.0**-14), fitted(2.0**10)
    plain = sequential_refit(stitch, database, allocation, context, context.fit, CORRECTED)
    differs = False
    for name, level in one.items():
        assert torch.equal(level.units, other[name].units)
        torch.testing.assert_close(level.weight, other[name].weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            dict(level.input_projections), dict(other[name].input_projections), rtol=1e-3, atol=1e-4
        )
        same = torch.equal(level.units, plain[name].units)
        differs = differs or not same or not torch.allclose(level.weight, plain[name].weight, atol=1e-3)
    assert differs


@pytest.mark.parametrize("model_type", ["bart", "mbart", "t5"])
def test_both_sides_of_the_walk_have_their_own_encoder_output(model_type: str) -> None:
    """At full size nothing drifts, so the fit changes nothing. With a pruned encoder alone, the decoder makes up for it."""
    stitch, database, context, allocation = prepared(model_type)
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    how = Refit(damping=1e-6, output_ridge=1e-6, drift_ridge=1e-6)
    wanted = [context.model(**one).logits.detach() for one in context.fit]

    def error() -> float:
        found = [context.model(**one).logits.detach() for one in context.fit]
        return sum((one - other).square().mean().item() for one, other in zip(found, wanted, strict=True))

    full = {group.name: group.size for group in stitch.structure}
    sequential_refit(stitch, database, full, context, context.fit, how)
    assert error() < 1e-6
    encoder = {name: allocation[name] if name.startswith("encoder") else size for name, size in full.items()}
    sequential_refit(stitch, database, encoder, context, context.fit, how)
    refitted = error()
    for group in stitch.structure:
        if group.tokens == "decoder_attention_mask":
            stitch.reset(group.name)
    assert refitted < 0.8 * error()
    stitch.reset_all()
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())
