"""Complete runs of FLOP on tiny models: the target holds relative to the dense model, and the saved model is small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.cli.inspect import describe, tables
from secateurs.errors import RecipeError, TargetUnreachable
from secateurs.latency.curve import LatencyCurve
from secateurs.latency.environment import Environment
from secateurs.latency.table import LatencyTable
from secateurs.methods.flop.components import component_groups, with_pairs
from secateurs.modeling.pruned_modules import is_factored
from secateurs.numerics.low_rank import break_even
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Sparsity

GATES: dict[str, Any] = {
    "steps": 16,
    "epochs": 4.0,
    "ramp": 2.0,
    "rate": 1e-3,
    "gate_rate": 0.1,
    "evaluations": 3,
    "finetuning": 0.0,
}
"""A short training: the budget is met with any gates, since their masks are shifted to the target."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models, data and latency tables, which the tests share."""
    return tmp_path_factory.mktemp("flop")


def flop(place: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    """The recipe of a short run, with a latency table for its pairs of factors."""
    folder = place / model_type
    gates = {**GATES, **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.4,), **changes}
    recipe = tiny_run.recipe(
        folder, model_type, task, method="flop", train_batch_size=8, hyperparameters=gates, **changes
    )
    rank_table(recipe, folder / "ranks.json")
    return recipe.model_copy(update={"latency_table": str(folder / "ranks.json")})


def rank_table(recipe: Recipe, path: Path) -> None:
    """Save a table in which all components take equally long up to the break-even rank; a matrix takes little more."""
    if path.exists():
        return
    loaded = load(recipe)
    curves = {}
    for group in loaded.structure.timed:
        pair: Any = loaded.model.get_submodule(group.product)
        even = break_even(pair.in_features, pair.out_features)
        if even < group.size:
            curves[group.name] = LatencyCurve(
                (0, 1, even, group.size), (0.0, 0.1, 0.01 * even + 0.09, 0.01 * even + 0.1), max_factored_rank=even
            )
        else:
            curves[group.name] = LatencyCurve((0, 1, group.size), (0.0, 0.1, 0.01 * group.size + 0.09))
    names = {group.name: group.name for group in loaded.structure.timed}
    dense = 0.5 + sum(curve.ms[-1] for curve in curves.values())
    LatencyTable(Environment(), dense, 0.5, curves, names, {"processor": "nowhere"}).save(path)


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, Recipe, Report]:
    """A run with enough steps to learn which components matter."""
    recipe = flop(place, hyperparameters={"steps": 60, "finetuning_steps": 10})
    return place / "out", recipe, secateurs.run(recipe, place / "out")


def test_the_sparsity_is_relative_to_the_dense_model(finished: tuple[Path, Recipe, Report]) -> None:
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


def test_inspect_shows_ranks(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, report = finished
    first, *_ = tables(describe(str(out / report.models[0].path)))
    rows = {row[0]: row[1:] for row in zip(*(list(column.cells) for column in first.columns), strict=True)}
    for name, kept in report.models[0].kept.items():
        assert rows[name][:2] == (str(kept.kept), str(kept.size)), name
        assert (rows[name][3] == "one matrix") == (kept.kept > 0 and kept.kept > _even(name)), name


def _even(name: str) -> int:
    """Break-even rank of the matrix of a group."""
    return break_even(32, 32) if ("attention" in name and "output" in name) or "self" in name else break_even(32, 20)


def test_trained_gates_are_better_than_untrained_ones(
    finished: tuple[Path, Recipe, Report], place: Path, tmp_path: Path
) -> None:
    """One step at tiny rates trains nothing: those gates keep random components."""
    untrained = {"steps": 1, "gate_rate": 1e-6, "rate": 1e-9, "init": "svd"}
    (random,) = secateurs.run(flop(place, hyperparameters=untrained), tmp_path / "out").models
    (trained,) = finished[2].models
    assert random.sparsity == pytest.approx(trained.sparsity, abs=0.02)
    assert trained.divergence is not None and random.divergence is not None
    assert trained.divergence.value < random.divergence.value


def test_rewound_weights_are_the_strongest_components_of_the_start(
    finished: tuple[Path, Recipe, Report], tmp_path: Path
) -> None:
    """Rewinding keeps the trained ranks, and takes the components from the matrices themselves."""
    done, recipe, report = finished
    rewound = {**GATES, "steps": 60, "rewind": True, "init": "svd"}
    recipe = recipe.model_copy(update={"hyperparameters": rewound})
    folder = tiny_run.with_trained_gates(done, recipe, tmp_path / "out")
    (model,) = secateurs.run(recipe, folder, resume=True).models
    assert model.met and len({kept.kept for kept in model.kept.values()}) > 2, "ranks were learned"
    assert model.kept == report.models[0].kept
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    small = AutoModelForSequenceClassification.from_pretrained(folder / model.path)
    for group in component_groups(with_pairs(dense, "all"), "all"):
        left, strengths, right = torch.linalg.svd(dense.get_submodule(group.product).weight.double())
        rank = model.kept[group.name].kept
        wanted = (left[:, :rank] * strengths[:rank]) @ right[:rank]
        torch.testing.assert_close(small.get_submodule(group.product).weight.double(), wanted, atol=1e-6, rtol=0)


def test_learning_rates_warm_up(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate of the weights rises for ``warmup`` of the steps; those of gates and multipliers are constant."""
    from secateurs.training import trainer

    optimizers: list[torch.optim.Optimizer] = []
    build_optimizer = trainer.build_optimizer

    def build(*given: Any) -> torch.optim.Optimizer:
        optimizers.append(build_optimizer(*given))
        return optimizers[-1]

    monkeypatch.setattr(trainer, "build_optimizer", build)
    rates: list[list[float]] = []

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        for number, item in enumerate(items):
            if title == "pruning" and number:  # after each step
                rates.append([group["lr"] for group in optimizers[-1].param_groups])
            yield item

    loaded = load(flop(place, hyperparameters={"steps": 10, "warmup": 0.4, "init": "svd", "evaluations": 1}))
    context = replace(loaded.context(tmp_path / "stages", track), teacher=loaded.dense)
    cost = ParameterCost.of(loaded.model, loaded.structure, loaded.dense)
    loaded.method.fit(context).train_gates(Sparsity(0.4).budget(cost))
    weights, gates, multipliers = zip(*rates, strict=True)
    factors = [0.25, 0.5, 0.75, 1.0, *(left / 6 for left in (5, 4, 3, 2, 1))]
    assert weights == pytest.approx([1e-3 * factor for factor in factors])
    assert set(gates) == {0.3} and set(multipliers) == {10.0}


@pytest.mark.parametrize(("model_type", "task"), [("bert", "text-classification"), ("gpt2", "causal-lm")])
def test_a_speedup_is_met_by_the_table(place: Path, tmp_path: Path, model_type: str, task: str) -> None:
    recipe = flop(place, model_type, task, sparsity=(), speedup=(1.8,))
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.8 <= model.predicted_speedup <= 1.9


@pytest.mark.parametrize("preset", ["paper", "quick"])
def test_presets_with_few_steps(place: Path, tmp_path: Path, preset: str, caplog: pytest.LogCaptureFixture) -> None:
    """The paper trains on labels, by Noam's schedule, from half open gates. Masks that miss the target are shifted to it."""
    caplog.set_level("INFO", "secateurs")
    changes = {"steps": 20, "epochs": 100.0, "ramp": 50.0, "finetuning_steps": 0, "finetuning": 0.0, "evaluations": 1}
    recipe = flop(place, sparsity=(0.3,)).model_copy(update={"preset": preset, "hyperparameters": changes})
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert 0.3 <= model.sparsity <= 0.32
    assert "gates cannot close in 10 steps at a rate of" in caplog.text


def test_random_factors(tmp_path: Path) -> None:
    recipe = flop(tmp_path, hyperparameters={"init": "scratch", "prepruning": 2.0, "teach": "labels"})
    loaded = load(recipe)
    cost = ParameterCost.of(loaded.model, loaded.structure, loaded.dense)
    assert Sparsity(0.4).budget(cost).limit == pytest.approx(cost.fixed + 0.6 * cost.dense)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert 0.4 <= model.sparsity <= 0.42


def test_a_pruned_model_is_pruned_again(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Pairs are found at their present ranks, and the sparsity is relative to the model that was given."""
    out, recipe, report = finished
    (before,) = report.models
    changes = {"hyperparameters": GATES, "model": str(out / before.path), "sparsity": (0.3,)}
    again = recipe.model_copy(update=changes)
    loaded = load(again)
    cost = ParameterCost.of(loaded.model, loaded.structure, loaded.dense)
    assert cost(cost.sizes) == before.parameters
    (model,) = secateurs.run(again, tmp_path / "out").models
    assert 0.3 <= model.sparsity <= 0.33
    assert model.parameters < before.parameters == model.dense_parameters
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in small.parameters()) == model.parameters
    groups = json.loads((tmp_path / "out" / model.path / "config.json").read_text())["secateurs"]["groups"]
    assert {group["size"] for group in groups.values()} == {32, 20}, "original sizes are those of the first model"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 33}, r"a rank of 33 does not fit .*query, a matrix of 32 x 32; give 1 to 32"),
        ({"matrices": "*word_embeddings"}, "cannot be factorised: it is an embedding table"),
        ({"matrices": "*.nowhere"}, r"no matrix is called '\*\.nowhere'"),
    ],
)
def test_matrices_that_do_not_exist_are_refused_in_one_line(
    finished: tuple[Path, Recipe, Report], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(finished[1].model_copy(update={"hyperparameters": changes}))
    assert "\n" not in str(caught.value)


def test_a_speedup_that_no_rank_can_meet(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    recipe = finished[1].model_copy(update={"sparsity": (), "speedup": (50.0,)})
    with pytest.raises(TargetUnreachable, match=r"Speedup 50 is unreachable .*removing every unit gives"):
        secateurs.run(recipe, tmp_path / "out")


def test_an_embedding_has_no_labels(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="embedding has no loss of its own; use --set teach=outputs"):
        secateurs.run(flop(place, task="embedding", hyperparameters={"teach": "labels"}), tmp_path / "out")


@pytest.mark.parametrize("target", [{"sparsity": (0.4,)}, {"sparsity": (), "speedup": (1.5,)}])
def test_widths_of_adaptive_embeddings_are_learned_too(place: Path, tmp_path: Path, target: dict[str, Any]) -> None:
    """In parameters they count like ranks. A latency table does not time them, so that a speed-up leaves them free."""
    how = {"teach": "labels", "freeze_embeddings": False}
    recipe = flop(place, "secateurs-adaptive-lm", "causal-lm", hyperparameters=how, **target)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.met is not False
    widths = {name: kept for name, kept in model.kept.items() if name.startswith("embeddings.")}
    assert widths
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in small.parameters()) == model.parameters
    for index, table in enumerate(small.model.embed_tokens.clusters):
        assert table.table.embedding_dim == widths[f"embeddings.{index}.rank"].kept


def test_a_byte_model_is_evaluated_in_bits(tmp_path: Path) -> None:
    from secateurs.adaptive_lm import byte_tokenizer

    folder, model_type = tmp_path / "secateurs-adaptive-lm", "secateurs-adaptive-lm"
    tiny_run.model_folder(folder / "model", model_type, vocab_size=257, cutoffs=[], embedding_sizes=None)
    byte_tokenizer(["the cat sat on the mat"])[0].save_pretrained(folder / "model")
    tiny_run.rows(folder / "data")
    how = {"teach": "labels", "freeze_embeddings": False, "steps": 4, "evaluations": 1}
    recipe = flop(tmp_path, model_type, "causal-lm", hyperparameters=how)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.metric is not None and model.metric.name == "bits per byte" and 4 < model.metric.value < 12
