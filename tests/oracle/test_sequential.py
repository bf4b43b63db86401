"""Fitting to the pruned model against plain least squares, and what it is for: outputs nearer to the dense model's."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from secateurs.families import discover, model_types
from secateurs.job import Job
from secateurs.layers import layer_paths
from secateurs.methods import _context
from secateurs.methods._context import SCARCE, in_context
from secateurs.numerics.hessian import Moments, damped
from secateurs.numerics.regression import Sums
from secateurs.stages.calibrate import calibrate
from secateurs.stages.head import first_reader
from secateurs.stages.levels import Level, LevelDatabase, Projection
from secateurs.stages.sequential import in_order
from secateurs.stages.stitch import Stitch
from secateurs.structure import Group
from secateurs.tasks.text_classification import TextClassification
from tiny_models import DECODERS, batch, tiny_model, without_layer


def prepared(model_type: str, folder: Path):
    """A model, its stitch and dense database, a job, and half of every group as profile."""
    model = tiny_model(model_type)
    structure = discover(model)
    batches = [dict(batch(length=12, padding="right", seed=seed)) for seed in range(12)]
    stitch = Stitch(model, structure)
    dense = {group.name: Projection(stitch.weight(group.name), stitch.bias(group.name)) for group in structure}
    database = LevelDatabase.build(structure, dense, calibrate(model, structure, batches))
    profile = {group.name: max(1, group.size // 2) for group in structure}
    return stitch, database, Job(model, structure, batches, None, folder), profile


def inputs_of(model, path: str, batches: list) -> torch.Tensor:
    """What the module at ``path`` reads, PAD left out."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for one in batches:
            model(**one)
    handle.remove()
    if seen[0].ndim == 2:
        return torch.cat(seen)
    tokens = torch.cat([one["attention_mask"].bool().flatten() for one in batches])
    return torch.cat([part.flatten(0, -2) for part in seen])[tokens]


def ridge(x: torch.Tensor, t: torch.Tensor, weight: torch.Tensor, damping: float, centred: bool) -> torch.Tensor:
    """Least squares of ``t`` on ``x``, held to ``weight``: the normal equations, written down."""
    if centred:
        x, t = x - x.mean(0), t - t.mean(0)
    gram = x.T @ x / len(x)
    held = damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + held, x.T @ t / len(x) + held @ weight.T).T


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_the_first_projection_is_the_ridge_solution(model_type: str, tmp_path: Path) -> None:
    """Nothing is pruned before it, so its inputs are dense and it should put out what it did."""
    stitch, database, job, profile = prepared(model_type, tmp_path)
    group = next(iter(job.structure))
    x = inputs_of(job.model, group.reader, job.batches)
    dense = database.projections[group.name]
    t = x @ dense.weight.T + (0 if dense.bias is None else dense.bias)
    aim = dense.weight * 0.9  # anything but the answer
    solved: dict[str, torch.Tensor] = {}

    def solve(group: Group, sums: Sums) -> Level:
        solved[group.name] = sums.solve(
            aim if not solved else database.projections[group.name].weight, dense.bias, 0.1
        )[0]
        return database.level(group.name, profile[group.name])

    in_order(stitch, job.batches, solve)
    wanted = ridge(x, t, aim, 0.1, dense.bias is not None)
    torch.testing.assert_close(solved[group.name], wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("model_type", model_types())
@pytest.mark.parametrize("correct", [None, 1e-4])
def test_the_stream_comes_nearer_to_the_dense_one(model_type: str, correct: float | None, tmp_path: Path) -> None:
    """On the tokens it was fitted to; and everything that was changed can be put back."""
    stitch, database, job, profile = prepared(model_type, tmp_path)
    last = list(job.structure)[-1].stream
    whole = {name: value.clone() for name, value in job.model.state_dict().items()}
    wanted = inputs_of(job.model, last, job.batches)
    for name, kept in profile.items():
        level = database.level(name, kept)
        stitch.install(name, level.units, level.weight, level.bias)
    before = (inputs_of(job.model, last, job.batches) - wanted).pow(2).mean()
    in_context(stitch, database, profile, job, damping=1e-4, towards=1e-4, correct=correct, padding=False)
    after = (inputs_of(job.model, last, job.batches) - wanted).pow(2).mean()
    assert after < before
    assert model_type in DECODERS or after < 0.9 * before
    stitch.reset_all()
    assert all(torch.equal(value, whole[name]) for name, value in job.model.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "qwen2"])
def test_feeders_are_fitted_to_their_own_dense_outputs(model_type: str, tmp_path: Path) -> None:
    """Those of the last group, on what the pruned model feeds them: the correction of the input *is* the regression."""
    stitch, database, job, profile = prepared(model_type, tmp_path)
    group = list(job.structure)[-1]
    profile[group.name] = group.size  # so that no row of them is cut
    before = inputs_of(job.model, group.feeders[0], job.batches)
    linear = {path: stitch.linear(path) for path in group.feeders}
    fitted = in_context(stitch, database, profile, job, damping=0.01, towards=0.1, correct=0.05, padding=False)
    after = inputs_of(job.model, group.feeders[0], job.batches)
    assert not torch.allclose(before, after)
    for path, (weight, bias) in linear.items():
        wanted = ridge(
            after, before @ weight.T, weight, 0.05 * (1 + SCARCE * weight.shape[1] / len(after)), bias is not None
        )
        found = stitch.oriented(path, fitted[group.name].feeders[f"{path}.weight"])
        assert (wanted - weight).abs().max() > 2e-2
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3)  # sums of float32 products
        if bias is not None:
            shifted = bias + before.mean(0) @ weight.T - after.mean(0) @ wanted.T
            torch.testing.assert_close(fitted[group.name].feeders[f"{path}.bias"], shifted, rtol=0, atol=5e-3)
            assert torch.equal(job.model.get_parameter(f"{path}.bias"), fitted[group.name].feeders[f"{path}.bias"])


def test_what_reads_the_last_layer_is_corrected_too(tmp_path: Path) -> None:
    stitch, database, job, profile = prepared("bert", tmp_path)
    head = first_reader(job.model, job.structure, job.batches[0])
    assert head is not None
    weight, bias = stitch.linear(head)
    before = inputs_of(job.model, head, job.batches)
    in_context(stitch, database, profile, job, damping=0.01, towards=0.1, correct=0.05, padding=False)
    after = inputs_of(job.model, head, job.batches)
    wanted = ridge(
        after, before @ weight.T, weight, 0.05 * (1 + SCARCE * weight.shape[1] / len(after)), bias is not None
    )
    assert (wanted - weight).abs().max() > 2e-2
    torch.testing.assert_close(job.model.get_parameter(f"{head}.weight").data, wanted, rtol=0, atol=5e-3)


def test_the_first_reader_is_found_and_shared_weights_are_left_alone() -> None:
    inputs = dict(batch())

    def found(model: torch.nn.Module) -> str | None:
        return first_reader(model, discover(model), inputs)

    for model_type, path in (
        ("bert", "bert.pooler.dense"),
        ("roberta", "classifier.dense"),
        ("distilbert", "pre_classifier"),
    ):
        assert found(AutoModelForSequenceClassification.from_config(tiny_model(model_type).config)) == path
    assert found(tiny_model("gpt2")) is None  # the output embedding is the input embedding
    assert found(tiny_model("llama")) == "lm_head"


@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_layer_that_was_pruned_away_still_counts(model_type: str, gone: int) -> None:
    """With nothing to make good, what every projection should put out is what it does put out."""
    model = without_layer(model_type, gone).float()
    structure = discover(model)
    stitch = Stitch(model, structure)
    batches = [dict(batch(length=12, padding="right", seed=seed)) for seed in range(2)]
    solved = []

    def solve(group: Group, sums: Sums) -> Level:
        weight, bias = stitch.weight(group.name), stitch.bias(group.name)
        wanted, shift = sums.solve(weight, bias, 0.1)
        torch.testing.assert_close(wanted, weight, rtol=0, atol=0.1)  # the forwards are in bfloat16
        if bias is not None:
            torch.testing.assert_close(shift, bias, rtol=0, atol=0.1)
        solved.append(group.name)
        return Level(torch.arange(group.size), weight, bias)

    in_order(stitch, batches, solve)
    assert solved == [group.name for group in structure]
    head = first_reader(model, structure, batches[0])
    assert head is None or not head.startswith(tuple(layer_paths(model, structure)))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_in_context_every_group_is_fitted_behind_the_pruned_ones(model_type: str, tmp_path: Path) -> None:
    """The last group, with everything before it at its new level: W* by hand, and the level that follows from it."""
    stitch, database, job, profile = prepared(model_type, tmp_path)
    emptied, group = next(iter(job.structure)).name, list(job.structure)[-1]
    profile[emptied] = 0
    wanted = inputs_of(job.model, group.stream, job.batches)
    found = in_context(stitch, database, profile, job, damping=0.01, towards=0.1, correct=None, padding=False)
    assert len(found[emptied].units) == 0

    stitch.reset(group.name)
    x = inputs_of(job.model, group.reader, job.batches)
    dense = database.projections[group.name]
    added = x @ dense.weight.T + (0 if dense.bias is None else dense.bias)
    residual = inputs_of(job.model, group.stream, job.batches) - added
    whole = ridge(x, wanted - residual, dense.weight, 0.1, dense.bias is not None)

    moments = Moments(x.shape[1], dtype=torch.float64)
    moments.update(x)
    hessian = damped(moments.gram if dense.bias is None else moments.centred(), 0.01)
    level = found[group.name]
    columns = (level.units[:, None] * group.width + torch.arange(group.width)).flatten()
    kept = torch.linalg.solve(hessian[columns][:, columns], hessian[columns] @ whole.T)
    torch.testing.assert_close(level.weight, kept.T, rtol=0, atol=5e-3)  # sums of float32 products


def test_the_first_batches_that_fit_into_memory_are_used(tmp_path: Path) -> None:
    stitch, database, job, profile = prepared("bert", tmp_path)
    first = in_context(
        stitch, database, profile, replace(job, batches=job.batches[:1]),
        damping=0.01, towards=0.1, correct=0.05, padding=False,
    )  # fmt: skip
    seen = []

    def solve(group: Group, sums: Sums) -> Level:
        seen.append(sums.moments.count)
        return first[group.name]

    in_order(stitch, job.batches, solve, memory_bytes=1)
    assert set(seen) == {float(job.batches[0]["attention_mask"].sum())}


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_hidden_states_are_kept_in_front_of_one_layer_only(model_type: str, tmp_path: Path) -> None:
    """However many layers there are: that is what bounds the texts a fit can use."""
    stitch, database, job, profile = prepared(model_type, tmp_path)
    shape = (*job.batches[0]["input_ids"].shape, job.model.config.hidden_size)
    most = []

    def solve(group: Group, sums: Sums) -> Level:
        gc.collect()
        most.append(sum(type(found) is torch.Tensor and found.shape == shape for found in gc.get_objects()))
        return database.level(group.name, profile[group.name])

    in_order(stitch, job.batches, solve, lambda paths, sums: {})
    assert len(layer_paths(job.model, job.structure)) > 1
    assert 2 * len(job.batches) <= max(most) <= (2 + 2 * 2) * len(job.batches) + 4


def test_tokens_count_by_their_weight(tmp_path: Path) -> None:
    """A token that weighs nothing might as well be PAD; one that weighs twice stands there twice."""
    stitch, database, job, profile = prepared("bert", tmp_path)
    twice = dict(job.batches[0])
    found: list[dict[str, torch.Tensor]] = []

    def weigh(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = torch.tensor([2.0, 0.0, 1.0])[:, None].expand(batch["input_ids"].shape)
        return {group.name: weights for group in job.structure}

    def fitted(batches: list, weigh=None) -> None:
        grams: dict[str, torch.Tensor] = {}

        def solve(group: Group, sums: Sums) -> Level:
            grams[f"{group.name}.gram"], grams[f"{group.name}.cross"] = sums.moments.gram, sums.cross
            return database.level(group.name, profile[group.name])

        in_order(stitch, batches, solve, weigh=weigh)
        found.append(grams)

    assert len(twice["input_ids"]) == 3
    fitted([twice], weigh)
    fitted([{name: value[[0, 0, 2]] for name, value in twice.items()}])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_only_ratios_of_weights_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not their size, which is that of a gradient: neither for what is fitted nor for how far a feeder is corrected."""
    stitch, database, job, profile = prepared("bert", tmp_path)
    job = replace(job, task=TextClassification())
    drawn = torch.rand(job.batches[0]["input_ids"].shape, generator=torch.Generator().manual_seed(0)) + 0.1

    def fitted(size: float) -> dict[str, Level]:
        def weigh(*given):
            return lambda batch: {group.name: size * drawn for group in job.structure}

        monkeypatch.setattr(_context, "Importance", weigh)
        return in_context(
            stitch, database, profile, job, damping=0.01, towards=0.1, correct=0.05, padding=False, weigh=True
        )

    one, other = fitted(2.0**-14), fitted(2.0**10)
    plain = in_context(stitch, database, profile, job, damping=0.01, towards=0.1, correct=0.05, padding=False)
    differs = False
    for name, level in one.items():
        assert torch.equal(level.units, other[name].units)
        torch.testing.assert_close(level.weight, other[name].weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(dict(level.feeders), dict(other[name].feeders), rtol=1e-3, atol=1e-4)
        same = torch.equal(level.units, plain[name].units)
        differs = differs or not same or not torch.allclose(level.weight, plain[name].weight, atol=1e-3)
    assert differs
