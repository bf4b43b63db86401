"""The baselines of FLOP from end to end on tiny models: shapes are even, targets are met, a killed run ends the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import tiny_run
from secateurs import pipeline
from secateurs.errors import RecipeError
from secateurs.factorize import pairs
from secateurs.loading import load
from secateurs.mask import Mask
from secateurs.methods import method as find_method
from secateurs.modeling_pruned import is_factored, is_selected
from secateurs.numerics.low_rank import break_even
from secateurs.recipe import Recipe
from secateurs.report import Report

LEARNING: dict[str, dict[str, Any]] = {
    "agp": {"steps": 16, "end": 0.6, "rate": 1e-3, "scale_rate": 1e-2},
    "agp-unstructured": {"steps": 16, "end": 0.6, "rate": 1e-3},
    "fac": {"steps": 12, "rate": 1e-3},
}
TITLES = {"agp": "pruning", "agp-unstructured": "pruning", "fac": "training"}
METHODS = sorted(LEARNING)


def baseline(folder: Path, method: str, **changes: Any) -> Recipe:
    learning = {**LEARNING[method], **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.7,), **changes}
    recipe = tiny_run.recipe(folder, method=method, train_batch_size=8, hyperparameters=learning, **changes)
    return tiny_run.own_table(recipe, folder / f"{method}.json")


@pytest.fixture(scope="module", params=METHODS)
def finished(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Recipe, Report]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = baseline(folder, request.param)
    return request.param, folder / "out", recipe, pipeline.run(recipe, folder / "out")


def test_the_sparsity_is_the_one_asked_for(finished: tuple[str, Path, Recipe, Report]) -> None:
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


def test_every_matrix_keeps_the_same_part(finished: tuple[str, Path, Recipe, Report]) -> None:
    method, out, _, report = finished
    (model,) = report.models
    loaded = AutoModelForSequenceClassification.from_pretrained(out / model.path)
    if method == "agp-unstructured":
        matrices = [p for name, p in loaded.named_parameters() if ".layer." in name and p.dim() == 2]
        shares = [(matrix == 0).double().mean().item() for matrix in matrices]
        assert len(matrices) == 18
        assert max(shares) - min(shares) <= 1 / min(map(torch.numel, matrices))
        return
    pairs: list[Any] = [module for module in loaded.modules() if is_factored(module)]
    assert len(pairs) == 18
    for pair in pairs:
        share = {"agp": pair.rank / min(pair.in_features, pair.out_features),
                 "fac": pair.rank / break_even(pair.in_features, pair.out_features)}[method]  # fmt: skip
        most = {"agp": min(pair.in_features, pair.out_features), "fac": 12}[method]
        assert share == pytest.approx(
            sum(kept.kept for kept in model.kept.values()) / _whole(model, method), abs=1.5 / most
        )


def _whole(model: Any, method: str) -> float:
    sizes = {"agp": {32: 32, 20: 20}, "fac": {32: break_even(32, 32), 20: break_even(32, 20)}}[method]
    return sum(sizes[kept.size] for kept in model.kept.values())


class Killed(BaseException):
    """Stands for a kill: nothing in the library may catch it."""


def test_a_killed_run_ends_the_same(finished: tuple[str, Path, Recipe, Report], tmp_path: Path) -> None:
    method, done, recipe, _ = finished

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        for number, item in enumerate(items):
            if title == TITLES[method] and number == 8:
                raise Killed
            yield item

    with pytest.raises(Killed):
        pipeline.run(recipe, tmp_path / "out", track=track)
    pipeline.run(recipe, tmp_path / "out", resume=True)
    name = "sparsity-0.70/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_a_checkpoint_is_taken_up(
    finished: tuple[str, Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind a checkpoint: the training goes on from it, and what was 0 by then is 0 in the end."""
    from secateurs.stages import train

    method, _, recipe, _ = finished
    if method == "fac":
        pytest.skip("its training is recovery, whose checkpoints have tests of their own")
    ordinary = train.Training

    def often(*args: Any, **given: Any) -> train.Training:
        return ordinary(*args, **{**given, "checkpoint_steps": 5})

    monkeypatch.setattr("secateurs.methods._gradual.Training", often)
    begun: list[int] = []

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        begun.extend([total or 0] if title == "pruning" else [])
        for number, item in enumerate(items):
            if title == "pruning" and number == 12 and len(begun) == 1:
                raise Killed
            yield item

    with pytest.raises(Killed):
        pipeline.run(recipe, tmp_path / "out", track=track)
    (checkpoint,) = (tmp_path / "out" / "stages" / "sparsity-0.70" / "pruning").glob("checkpoint-10")
    then = load_file(checkpoint / "model.safetensors")
    (model,) = pipeline.run(recipe, tmp_path / "out", track=track, resume=True).models
    assert begun == [16, 6] and model.met
    place = tmp_path / "out" / model.path
    if method == "agp":
        kept = Mask.load(place / "mask.safetensors")
        now = torch.cat([kept[group.name] for group in load(recipe).structure])
        assert 0 < now.sum() < len(now)
        assert torch.equal(now, then["kept"].bool())  # all that goes is gone after 0.6 of 16 steps
    else:
        values = load_file(place / "model.safetensors")
        masks = {
            key.removeprefix("model.").removesuffix("_mask"): value for key, value in then.items() if "_mask" in key
        }
        assert len(masks) == 18
        assert all(bool((values[name][mask == 0] == 0).all()) for name, mask in masks.items())


@pytest.mark.parametrize("method", ["agp", "fac"])
def test_a_speed_up_by_the_table(tmp_path: Path, method: str) -> None:
    recipe = baseline(tmp_path, method, sparsity=(), speedup=(1.6,))
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.6 <= model.predicted_speedup <= 1.65


def test_zeros_make_nothing_faster(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="agp-unstructured makes zeros, and no model faster: give it a sparsity"):
        load(Recipe.of({**baseline(tmp_path, "agp-unstructured").to_dict(), "sparsity": (), "speedup": (2.0,)}))


def test_a_model_that_is_factorised_already_keeps_its_pairs(tmp_path: Path) -> None:
    """Pruned a second time, from the pairs that the first time left."""
    first = pipeline.run(baseline(tmp_path, "fac", sparsity=(0.3,)), tmp_path / "first").models[0]
    again = {"model": str(tmp_path / "first" / first.path), "sparsity": (0.5,)}
    for method in METHODS:
        recipe = baseline(tmp_path, method, hyperparameters={"steps": 4})
        recipe = tiny_run.own_table(Recipe.of({**recipe.to_dict(), **again}), tmp_path / f"again-{method}.json")
        (model,) = pipeline.run(recipe, tmp_path / f"again-{method}").models
        assert model.dense_parameters == first.parameters
        assert model.met and model.sparsity + model.zeros < 0.53


def test_inputs_are_learned_away(tmp_path: Path) -> None:
    learning = {"steps": 100, "epochs": 4.0, "ramp": 2.0, "rate": 1e-3, "gate_rate": 0.1, "looks": 2, "finetuning": 0.0}
    made = tiny_run.recipe(
        tmp_path, method="np", train_batch_size=8, speedup=(), sparsity=(0.5,), hyperparameters=learning
    )
    (model,) = pipeline.run(tiny_run.own_table(made, tmp_path / "np.json"), tmp_path / "out").models
    assert model.met and 0.5 <= model.sparsity <= 0.53
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    read = [module.selected for module in loaded.modules() if is_selected(module)]
    assert len(read) > 10 and any(not torch.equal(indices, torch.arange(len(indices))) for indices in read)
    with pytest.raises(RecipeError, match="np: there are no factors; leave init and rank out"):
        find_method("np", rank=4)


def test_from_scratch_is_another_model(tmp_path: Path) -> None:
    recipe = baseline(tmp_path, "fac", hyperparameters={"init": "scratch", "steps": 1, "rate": 1e-9})
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / model.path)
    dense = AutoModelForSequenceClassification.from_pretrained(recipe.model)
    old, new = dense.bert.embeddings.word_embeddings.weight, loaded.bert.embeddings.word_embeddings.weight
    assert old.shape == new.shape and (old - new).abs().max() > 0.1
    ratios = []  # of the variance of a product of few components to that of a fresh matrix
    for path, pair in pairs(loaded).items():
        fresh = 2 / sum(dense.get_submodule(path).weight.shape)
        ratios.append((pair.second.weight @ pair.first.weight).var().item() / fresh)
    assert len(ratios) == 18
    assert sum(ratios) / 18 == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_the_task_teaches_where_there_are_labels_else_the_dense_model(tmp_path: Path, method: str) -> None:
    recipe = baseline(tmp_path, method)
    loaded = load(recipe)
    assert _lesson(loaded, tmp_path).teacher is None
    assert _lesson(load(baseline(tmp_path, method, hyperparameters={"teach": "outputs"})), tmp_path).teacher is not None
    unlabelled = baseline(tmp_path, method, task="embedding")
    assert _lesson(load(unlabelled), tmp_path).teacher is not None
    with pytest.raises(RecipeError, match="needs labels, and the training split has none; use --set teach=outputs"):
        _lesson(load(baseline(tmp_path, method, task="embedding", hyperparameters={"teach": "labels"})), tmp_path)


def _lesson(loaded: Any, folder: Path) -> Any:
    from secateurs.job import Job

    job = Job(loaded.model, loaded.structure, loaded.data.calibration, loaded.task, folder, train=loaded.data.train,
              collate=loaded.data.collate, teacher=loaded.dense)  # fmt: skip
    return loaded.method.prepare(job).lesson
