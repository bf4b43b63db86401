"""Complete runs of FLOP's baselines on tiny models: every matrix keeps the same fraction, targets are met, runs resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.errors import RecipeError
from secateurs.modeling.pruned_modules import is_factored, is_selected
from secateurs.numerics.low_rank import break_even
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.mask import Mask
from secateurs.surgery.factorize import pairs

SETTINGS: dict[str, dict[str, Any]] = {
    "agp": {"steps": 16, "end": 0.6, "rate": 1e-3, "scale_rate": 1e-2, "finetuning_steps": 4},
    "agp-unstructured": {"steps": 16, "end": 0.6, "rate": 1e-3, "finetuning_steps": 4},
    "fac": {"steps": 12, "rate": 1e-3},
}
METHODS = sorted(SETTINGS)
GATES: dict[str, Any] = {
    "steps": 40, "epochs": 4.0, "ramp": 2.0, "rate": 1e-3, "gate_rate": 0.1, "evaluations": 2, "finetuning": 0.0,
}  # fmt: skip
"""Of neuron pruning."""

Finished = tuple[str, Path, Recipe, Report]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the model, the data and the latency tables of all tests."""
    return tmp_path_factory.mktemp("baselines")


def baseline(place: Path, method: str, **changes: Any) -> Recipe:
    settings = {**SETTINGS.get(method, {}), **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.7,), **changes}
    recipe = tiny_run.recipe(place, method=method, train_batch_size=8, hyperparameters=settings, **changes)
    return tiny_run.own_table(recipe, place / f"{method}.json")


@pytest.fixture(scope="module")
def run_once(place: Path) -> Callable[[str], Finished]:
    """Method -> its finished run, which is started at the first call."""

    @cache
    def run(method: str) -> Finished:
        recipe = baseline(place, method)
        return method, place / f"{method}-out", recipe, secateurs.run(recipe, place / f"{method}-out")

    return run


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, run_once: Callable[[str], Finished]) -> Finished:
    return run_once(request.param)


def test_the_sparsity_target_is_met(finished: Finished) -> None:
    method, out, _, report = finished
    (model,) = report.models
    assert model.met
    loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    if method == "agp-unstructured":
        assert model.sparsity == 0.0
        assert model.zeros == pytest.approx(0.7, abs=1e-3)
        assert model.parameters == model.dense_parameters
        assert not any(map(is_factored, loaded.modules()))
        assert any("neither smaller nor faster" in note for note in report.notes)
    else:
        assert 0.7 <= model.sparsity <= 0.72
        assert model.zeros < 1e-3
        assert not any("zeros" in note for note in report.notes)


def test_every_matrix_keeps_the_same_fraction(finished: Finished) -> None:
    method, out, _, report = finished
    (model,) = report.models
    loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
    if method == "agp-unstructured":
        matrices = [p for name, p in loaded.named_parameters() if ".layer." in name and p.dim() == 2]
        shares = [(matrix == 0).double().mean().item() for matrix in matrices]
        assert len(matrices) == 18
        assert max(shares) - min(shares) <= 1 / min(map(torch.numel, matrices))
        return
    found: list[Any] = [module for module in loaded.modules() if is_factored(module)]
    assert len(found) == 18
    full = {"agp": {32: 32, 20: 20}, "fac": {32: break_even(32, 32), 20: break_even(32, 20)}}[method]
    mean = sum(kept.kept for kept in model.kept.values()) / sum(full[kept.size] for kept in model.kept.values())
    for pair in found:
        size = min(pair.in_features, pair.out_features)
        largest = {"agp": size, "fac": 12}[method]
        assert pair.rank / full[size] == pytest.approx(mean, abs=1.5 / largest)


@pytest.mark.parametrize("method", ["agp", "agp-unstructured"])
def test_a_run_killed_in_its_trainings_ends_the_same(
    run_once: Callable[[str], Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Killed after a checkpoint, and in the fine-tuning: what was pruned by the checkpoint stays pruned."""
    from secateurs.training import trainer

    _, done, recipe, _ = run_once(method)
    training = trainer.Training

    def with_checkpoints(*given: Any, **named: Any) -> trainer.Training:
        return replace(training(*given, **named), checkpoint_steps=5)

    monkeypatch.setattr("secateurs.methods.baselines._gradual.Training", with_checkpoints)
    out = tmp_path / "out"
    with pytest.raises(tiny_run.Killed):
        secateurs.run(recipe, out, track=tiny_run.kill_at("pruning", 12))
    (checkpoint,) = (out / "stages" / "sparsity-0.70" / "pruning").glob("checkpoint-10")
    then = load_file(checkpoint / "model.safetensors")
    lengths: list[int | None] = []

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        lengths.extend([total] if title == "pruning" else [])
        return tiny_run.kill_at("recovery" if len(lengths) == 1 else "", 2)(items, title, total)

    with pytest.raises(tiny_run.Killed):
        secateurs.run(recipe, out, track=track, resume=True)
    assert (out / "stages" / "sparsity-0.70" / "learned.safetensors").is_file()
    (model,) = secateurs.run(recipe, out, resume=True).models
    assert lengths == [6] and model.met
    weights = out / model.path / "model.safetensors"
    assert weights.read_bytes() == (done / model.path / "model.safetensors").read_bytes()
    if method == "agp":
        kept = Mask.load(out / model.path / "mask.safetensors")
        now = torch.cat([kept[group.name] for group in load(recipe).structure])
        assert 0 < now.sum() < len(now)
        assert torch.equal(now, then["kept"].bool())  # pruning ends after 0.6 of 16 steps
    else:
        values = load_file(weights)
        masks = {
            key.removeprefix("model.").removesuffix("_mask"): value for key, value in then.items() if "_mask" in key
        }
        assert len(masks) == 18
        assert all(bool((values[name][mask == 0] == 0).all()) for name, mask in masks.items())


@pytest.mark.parametrize("method", ["agp", "fac"])
def test_a_speedup_is_met_by_the_table(place: Path, tmp_path: Path, method: str) -> None:
    recipe = baseline(place, method, sparsity=(), speedup=(1.6,), hyperparameters={"steps": 4})
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.6 <= model.predicted_speedup <= 1.65


def test_zeros_do_not_speed_up(place: Path) -> None:
    with pytest.raises(RecipeError, match="agp-unstructured makes zeros, and no model faster: give it a sparsity"):
        load(Recipe.of({**baseline(place, "agp-unstructured").to_dict(), "sparsity": (), "speedup": (2.0,)}))


@pytest.mark.parametrize("method", METHODS)
def test_a_factorised_model_is_pruned_again(
    run_once: Callable[[str], Finished], place: Path, tmp_path: Path, method: str
) -> None:
    """The pairs of the first model are kept as they are, and pruned further."""
    _, out, _, report = run_once("fac")
    (first,) = report.models
    recipe = baseline(place, method, hyperparameters={"steps": 4}, model=str(out / first.path), sparsity=(0.5,))
    recipe = tiny_run.own_table(recipe, tmp_path / "table.json")
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.dense_parameters == first.parameters
    assert model.met and model.sparsity + model.zeros < 0.53


def test_neuron_pruning_selects_inputs(place: Path, tmp_path: Path) -> None:
    """Also after rewinding: the same inputs, with the weights of the start."""
    recipe = baseline(place, "neuron-pruning", sparsity=(0.5,), hyperparameters=GATES)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.met and 0.5 <= model.sparsity <= 0.53
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    found: list[Any] = [module.selected for module in loaded.modules() if is_selected(module)]
    assert len(found) > 10 and any(not torch.equal(indices, torch.arange(len(indices))) for indices in found)

    recipe = recipe.model_copy(update={"hyperparameters": {**GATES, "rewind": True}})
    folder = tiny_run.with_trained_gates(tmp_path / "out", recipe, tmp_path / "rewound")
    (model,) = secateurs.run(recipe, folder, resume=True).models
    rewound = AutoModelForSequenceClassification.from_pretrained(folder / model.path)
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    selected = {name: module for name, module in rewound.named_modules() if is_selected(module)}
    assert len(selected) == len(found)
    assert any(0 < module.weight.shape[1] < 32 for module in selected.values())
    for name, module in selected.items():
        assert torch.equal(module.selected, loaded.get_submodule(name).selected)
        assert torch.equal(module.weight, dense.get_submodule(name).weight[:, module.selected])


def test_random_factors_are_of_another_model(place: Path, tmp_path: Path) -> None:
    recipe = baseline(place, "fac", hyperparameters={"init": "scratch", "steps": 1, "rate": 1e-9})
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    old, new = dense.bert.embeddings.word_embeddings.weight, loaded.bert.embeddings.word_embeddings.weight
    assert old.shape == new.shape and (old - new).abs().max() > 0.1
    ratios = []  # variance of a product of few components / variance of a matrix at its initialisation
    for path, pair in pairs(loaded).items():
        initial = 2 / sum(dense.get_submodule(path).weight.shape)
        ratios.append((pair.second.weight @ pair.first.weight).var().item() / initial)
    assert len(ratios) == 18
    assert sum(ratios) / 18 == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_training_is_on_labels_if_there_are_any(place: Path, tmp_path: Path, method: str) -> None:
    """Otherwise the teacher is the dense model."""

    def teacher(**changes: Any) -> Any:
        loaded = load(baseline(place, method, **changes))
        context = replace(loaded.context(tmp_path), teacher=loaded.dense)
        fitted: Any = loaded.method.fit(context)
        return fitted.loss.teacher

    assert teacher() is None
    assert teacher(hyperparameters={"teach": "outputs"}) is not None
    assert teacher(task="embedding") is not None
    with pytest.raises(RecipeError, match="embedding has no loss of its own; use --set teach=outputs"):
        teacher(task="embedding", hyperparameters={"teach": "labels"})
