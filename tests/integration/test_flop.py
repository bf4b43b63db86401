"""FLOP from end to end on tiny models: the target is met relative to the dense model, and what comes out is small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny_run
from secateurs import pipeline
from secateurs.cost import ParameterCost
from secateurs.environment import Environment
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.inspection import tables
from secateurs.latency_curve import LatencyCurve
from secateurs.latency_table import LatencyTable
from secateurs.loading import load
from secateurs.methods import method
from secateurs.methods._components import components, with_pairs
from secateurs.methods._rank_learning import RankPruner
from secateurs.modeling_pruned import is_factored
from secateurs.numerics.low_rank import break_even
from secateurs.recipe import Recipe
from secateurs.report import Report
from secateurs.target import Sparsity

LEARNING: dict[str, Any] = {
    "steps": 120,
    "epochs": 4.0,
    "ramp": 2.0,
    "rate": 1e-3,
    "gate_rate": 0.1,
    "looks": 3,
    "finetuning_steps": 10,
}


def flop(folder: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    learning = {**LEARNING, **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.4,), **changes}
    recipe = tiny_run.recipe(
        folder, model_type, task, method="flop", train_batch_size=8, hyperparameters=learning, **changes
    )
    rank_table(recipe, folder / "ranks.json")
    return recipe.model_copy(update={"latency_table": str(folder / "ranks.json")})


def rank_table(recipe: Recipe, path: Path) -> None:
    """A table in which a component of any matrix takes as long as any other, up to break-even."""
    if path.exists():
        return
    loaded = load(recipe)
    curves = {}
    for group in loaded.structure.timed:
        pair: Any = loaded.model.get_submodule(group.product)
        even = break_even(pair.in_features, pair.out_features)
        if even < group.size:
            curves[group.name] = LatencyCurve(
                (0, 1, even, group.size), (0.0, 0.1, 0.01 * even + 0.09, 0.01 * even + 0.1), pair=even
            )
        else:
            curves[group.name] = LatencyCurve((0, 1, group.size), (0.0, 0.1, 0.01 * group.size + 0.09))
    names = {group.name: group.name for group in loaded.structure.timed}
    dense = 0.5 + sum(curve.ms[-1] for curve in curves.values())
    LatencyTable(Environment(), dense, 0.5, curves, names, {"processor": "nowhere"}).save(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Report]:
    folder = tmp_path_factory.mktemp("flop")
    recipe = flop(folder)
    return folder / "out", recipe, pipeline.run(recipe, folder / "out")


def test_the_sparsity_is_that_of_the_dense_model(finished: tuple[Path, Recipe, Report]) -> None:
    out, recipe, report = finished
    (model,) = report.models
    assert model.met and 0.4 <= model.sparsity <= 0.42  # one component is at most 0.4 %
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (dense, loaded)]
    assert [model.dense_parameters, model.parameters] == sizes
    prunable = sum(
        module.weight.numel()
        for name, module in dense.bert.encoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    )
    assert (sizes[0] - sizes[1]) / prunable == pytest.approx(model.sparsity)
    assert {"heads", "rank"} >= {kept.kind for kept in model.kept.values()} == {"rank"}
    assert sum(map(is_factored, loaded.modules())) > 0


def test_inspecting_tells_ranks(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, report = finished
    first, *_ = tables(str(out / report.models[0].path))
    rows = {row[0]: row[1:] for row in zip(*(list(column.cells) for column in first.columns), strict=True)}
    for name, kept in report.models[0].kept.items():
        assert rows[name][:2] == (str(kept.kept), str(kept.size)), name
        assert (rows[name][3] == "one matrix") == (kept.kept > 0 and kept.kept > _even(kept.size, name))


def _even(size: int, name: str) -> int:
    return break_even(32, 32) if ("attention" in name and "output" in name) or "self" in name else break_even(32, 20)


class Killed(BaseException):
    """Stands for a kill: nothing in the library may catch it."""


@pytest.mark.parametrize("stage", ["pruning", "recovery"])
def test_a_killed_run_ends_the_same(finished: tuple[Path, Recipe, Report], tmp_path: Path, stage: str) -> None:
    done, recipe, _ = finished

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        for number, item in enumerate(items):
            if title == stage and number == 5:
                raise Killed
            yield item

    with pytest.raises(Killed):
        pipeline.run(recipe, tmp_path / "out", track=track)
    pipeline.run(recipe, tmp_path / "out", resume=True)
    name = "sparsity-0.40/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_what_was_learned_is_better_than_the_lot(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Against gates that are moved to the target without a step of learning, hence by their draw at the start."""
    hardly = {"steps": 1, "finetuning_steps": 0, "finetuning": 0.0, "gate_rate": 1e-6, "rate": 1e-9, "init": "svd"}
    (drawn,) = pipeline.run(flop(tmp_path, hyperparameters=hardly), tmp_path / "out").models
    (learned,) = finished[2].models
    assert drawn.sparsity == pytest.approx(learned.sparsity, abs=0.02)
    assert learned.divergence is not None and drawn.divergence is not None
    assert learned.divergence.value < drawn.divergence.value


def test_rewound_weights_are_the_strongest_components_of_the_start(tmp_path: Path) -> None:
    """As many as were learned; where inputs are gated there is no order, and those that were learned stay."""
    untrained = {"rewind": True, "init": "svd", "finetuning_steps": 0, "finetuning": 0.0, "steps": 60}
    recipe = flop(tmp_path, hyperparameters=untrained)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.met and len({kept.kept for kept in model.kept.values()}) > 2, "ranks were learned"
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    for group in components(with_pairs(dense, "all"), "all"):
        left, strengths, right = torch.linalg.svd(dense.get_submodule(group.product).weight.double())
        rank = model.kept[group.name].kept
        wanted = (left[:, :rank] * strengths[:rank]) @ right[:rank]
        torch.testing.assert_close(small.get_submodule(group.product).weight.double(), wanted, atol=1e-6, rtol=0)

    inputs = recipe.model_copy(
        update={"method": "np", "latency_table": None, "hyperparameters": {**LEARNING, **untrained}}
    )
    (model,) = pipeline.run(inputs, tmp_path / "inputs").models
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "inputs" / model.path)
    value = "bert.encoder.layer.0.attention.self.value"
    selected = small.get_submodule(value)
    assert 0 < selected.weight.shape[1] < 32
    assert torch.equal(selected.weight, dense.get_submodule(value).weight[:, selected.selected])


@pytest.mark.parametrize(("model_type", "task"), [("bert", "text-classification"), ("gpt2", "causal-lm")])
def test_to_a_speed_up(tmp_path: Path, model_type: str, task: str) -> None:
    recipe = flop(tmp_path, model_type, task, sparsity=(), speedup=(1.8,), hyperparameters={"steps": 80})
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.8 <= model.predicted_speedup <= 1.9


@pytest.mark.parametrize("preset", ["paper", "quick"])
def test_the_presets(tmp_path: Path, preset: str, caplog: pytest.LogCaptureFixture) -> None:
    """Labels, Noam's schedule and gates that start half shut; as few steps as end with masks that had to be moved."""
    caplog.set_level("INFO", "secateurs")
    changes = {"steps": 20, "epochs": 100.0, "ramp": 50.0, "finetuning_steps": 0, "finetuning": 0.0, "looks": 1}
    recipe = flop(tmp_path, sparsity=(0.3,)).model_copy(update={"preset": preset, "hyperparameters": changes})
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert 0.3 <= model.sparsity <= 0.32
    assert "gates cannot close in 10 steps at a rate of" in caplog.text


@pytest.mark.parametrize(("steps", "ramp", "rate"), [(60, 30, 0.3), (150, 50, 0.3), (600, 75, 0.2), (8000, 1000, 0.05)])
def test_gates_can_close_within_the_ramp(steps: int, ramp: int, rate: float) -> None:
    pruner = object.__new__(RankPruner)
    pruner.how, pruner.job = method("flop", steps=steps), cast(Any, SimpleNamespace(train=[{}], rows_a_step=1))
    _, pace = pruner._schedule()
    assert (pace.ramp, pace.gates) == (ramp, pytest.approx(rate))


def test_factors_from_scratch(tmp_path: Path) -> None:
    changes = {"init": "scratch", "prepruning": 2.0, "teach": "labels", "steps": 60}
    recipe = flop(tmp_path, hyperparameters=changes)
    loaded = load(recipe)
    cost = ParameterCost.of(loaded.model, loaded.structure, loaded.dense)
    assert Sparsity(0.4).budget(cost).limit == pytest.approx(cost.fixed + 0.6 * cost.dense)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert 0.4 <= model.sparsity <= 0.42


def test_what_came_out_goes_in_again(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Pairs are found with the ranks they have now; the sparsity is that of the model that was given."""
    out, recipe, report = finished
    (before,) = report.models
    changes = {
        "hyperparameters": {**recipe.hyperparameters, "steps": 60},
        "model": str(out / before.path),
        "sparsity": (0.3,),
    }
    again = recipe.model_copy(update=changes)
    loaded = load(again)
    cost = ParameterCost.of(loaded.model, loaded.structure, loaded.dense)
    assert cost(cost.sizes) == before.parameters
    (model,) = pipeline.run(again, tmp_path / "out").models
    assert 0.3 <= model.sparsity <= 0.33
    assert model.parameters < before.parameters == model.dense_parameters
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in small.parameters()) == model.parameters
    groups = json.loads((tmp_path / "out" / model.path / "config.json").read_text())["secateurs"]["groups"]
    assert {group["size"] for group in groups.values()} == {32, 20}, "original sizes are those of the first model"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 33}, r"a rank of 33 does not fit .*query, a matrix of 32 x 32; give 1 to 32"),
        ({"matrices": "*word_embeddings"}, "cannot be factorised: it is an embedding table"),
        ({"matrices": "*.nowhere"}, r"no matrix is called '\*\.nowhere'"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    recipe = flop(tmp_path)
    with pytest.raises(RecipeError, match=says) as caught:
        load(recipe.model_copy(update={"hyperparameters": changes}))
    assert "\n" not in str(caught.value)


def test_a_target_that_no_rank_can_meet(tmp_path: Path) -> None:
    with pytest.raises(TargetUnreachable, match=r"Speedup 50 is unreachable .*removing every unit gives"):
        pipeline.run(flop(tmp_path, sparsity=(), speedup=(50.0,)), tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("drop", 1.0, "drop must lie between 0 and 1"),
        ("rate", 0.0, "rate must be above 0"),
        ("rank", -1, "rank must not be negative"),
        ("ramp", 9.0, "ramp .* must be shorter than epochs"),
        ("looks", 0, "looks must be at least 1"),
        ("init", "scratch", "give prepruning"),
        ("rewind", True, "random factors are no place to rewind to"),
        ("init", "random", "'aware', 'svd' or 'scratch'"),
    ],
)
def test_what_the_hyper_parameters_refuse(field: str, value: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        method("flop", **({"init": "scratch", "prepruning": 1.0} if field == "rewind" else {}), **{field: value})


def test_an_embedder_has_no_labels(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="embedding has no loss of its own; use teach=outputs"):
        pipeline.run(flop(tmp_path, task="embedding", hyperparameters={"teach": "labels"}), tmp_path / "out")


@pytest.mark.parametrize("target", [{"sparsity": (0.4,)}, {"sparsity": (), "speedup": (1.5,)}])
def test_widths_of_adaptive_embeddings_are_learned_too(tmp_path: Path, target: dict[str, Any]) -> None:
    """By parameters, they count like ranks; a latency table does not time them, and they go as they will."""
    how = {"teach": "labels", "freeze_embeddings": False, "steps": 60}
    recipe = flop(tmp_path, "secateurs-adaptive-lm", "causal-lm", hyperparameters=how, **target)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.met is not False
    widths = {name: kept for name, kept in model.kept.items() if name.startswith("embeddings.")}
    assert widths
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in small.parameters()) == model.parameters
    for index, table in enumerate(small.model.embed_tokens.clusters):
        assert table.table.embedding_dim == widths[f"embeddings.{index}.rank"].kept


def test_a_model_of_bytes_is_judged_by_bits(tmp_path: Path) -> None:
    from secateurs.adaptive_lm import byte_tokenizer

    tiny_run.model_folder(tmp_path / "model", "secateurs-adaptive-lm", vocab_size=257, cutoffs=[], embedding_sizes=None)
    byte_tokenizer(["the cat sat on the mat"])[0].save_pretrained(tmp_path / "model")
    tiny_run.rows(tmp_path / "data")
    how = {"teach": "labels", "freeze_embeddings": False, "steps": 20, "looks": 1}
    recipe = flop(tmp_path, "secateurs-adaptive-lm", "causal-lm", hyperparameters=how)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.metric is not None and model.metric.name == "bits per byte" and 4 < model.metric.value < 12
