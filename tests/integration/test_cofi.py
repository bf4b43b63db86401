"""CoFi from end to end on tiny models: the target is met, the result is what was learned, a killed run ends the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import tiny_run
from secateurs import pipeline
from secateurs.errors import RecipeError, UnsupportedModelError
from secateurs.recipe import Recipe
from secateurs.report import Report

LEARNING: dict[str, Any] = {
    "steps": 48,
    "epochs": 4.0,
    "ramp": 2.0,
    "rate": 2e-3,
    "gate_rate": 0.25,
    "looks": 3,
    "finetuning_steps": 10,
}
"""Gates that learn fast: what these tests look at needs no more steps than it takes to close one."""


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """How fast these models run says nothing, so it is measured in the blink of an eye."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateurs.delivery.MEASURE_SECONDS", 0.2)
        yield


def cofi(folder: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    learning = {**LEARNING, **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.5,), **changes}
    return tiny_run.recipe(
        folder, model_type, task, method="cofi", train_batch_size=8, hyperparameters=learning, **changes
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Report]:
    folder = tmp_path_factory.mktemp("cofi")
    recipe = cofi(folder)
    return folder / "out", recipe, pipeline.run(recipe, folder / "out")


def test_the_sparsity_is_the_one_asked_for(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, report = finished
    (model,) = report.models
    assert report.target_kind == "sparsity"
    assert model.met
    assert model.target == 0.5
    assert 0.5 <= model.sparsity <= 0.56  # one head of this model is 5 %
    assert model.expected_sparsity == pytest.approx(0.5, abs=0.005)
    assert model.sparsity_with_norms is not None
    assert 0.9 * model.sparsity < model.sparsity_with_norms < model.sparsity  # no norm has gone
    assert (out / "sparsity-0.50" / "model.safetensors").is_file()
    assert {"search", "fit", "recover"} <= model.seconds.keys()


def test_the_best_and_the_last_masks_stay(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, _ = finished
    learned = out / "stages" / "learned" / "sparsity-0.50"
    assert sorted(path.name for path in learned.iterdir()) == ["best.safetensors", "last.safetensors", "masks.json"]
    told = json.loads((learned / "masks.json").read_text())
    assert told["target"] == pytest.approx(0.5)
    assert abs(told["best"]["expected"] - 0.5) <= 0.005
    assert 0 <= told["best"]["realised"] - 0.5 <= 0.06
    assert told["last"]["step"] == 48
    best, last = (load_file(learned / f"{name}.safetensors") for name in ("best", "last"))
    assert best.keys() == last.keys()
    assert {"gates.fine", "gates.coarse", "matching.transform.weight", "model.classifier.weight"} <= best.keys()


@pytest.mark.parametrize("target", [{"sparsity": (0.5,)}, {"sparsity": (), "speedup": (1.8,)}])
def test_masks_may_start_where_ziplm_ends(
    tmp_path: Path, target: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="secateurs")
    recipe = cofi(tmp_path, hyperparameters={"masks": "ziplm", "steps": 100, "rate": 1e-3, "gate_rate": 0.1}, **target)
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert (tmp_path / "out" / "stages" / "levels.safetensors").is_file()
    removed = [float(text.split()[5]) for text in caplog.messages if "removes" in text]
    wanted = json.loads(next((tmp_path / "out" / "stages" / "learned").glob("*/masks.json")).read_text())["target"]
    assert len(removed) == 3  # looks from the first steps on: there is no ramp
    assert all(abs(value - 100 * wanted) <= 3 for value in removed)
    assert 0 <= model.sparsity - 0.5 <= 0.06 or model.predicted_speedup >= 1.8


@pytest.mark.parametrize("hidden", [False, True])
def test_the_start_is_ziplms_own_mask(tmp_path: Path, hidden: bool) -> None:
    from secateurs.cost import ParameterCost
    from secateurs.job import Job
    from secateurs.loading import load
    from secateurs.methods._ziplm_start import ziplm_start
    from secateurs.stages.gates import Gates
    from secateurs.target import Sparsity

    loaded = load(cofi(tmp_path, hyperparameters={"hidden": hidden}))
    job = Job(loaded.model, loaded.structure, loaded.data.calibration, loaded.task, tmp_path)
    dense = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    cost = ParameterCost.of(loaded.model, loaded.structure)
    budget = Sparsity(0.6).budget(cost)
    start = ziplm_start(job, budget)
    counts = {**cost.sizes, **start.mask.counts}
    assert 0.6 <= float(cost.sparsity(counts)) <= 0.66
    assert all(torch.equal(value, dense[name]) for name, value in loaded.model.state_dict().items())
    gates = Gates(loaded.structure, reach=7.0)
    start.set(gates)
    opened = gates.opened(counts).mask()
    assert all(torch.equal(opened[group.name], start.mask[group.name]) for group in loaded.structure)
    for (
        group
    ) in loaded.structure:  # the columns of what is gone are empty: a gate that opens again changes nothing at once
        weight = start.weights[group.reader_cut.parameter]
        columns = weight if group.reader_cut.dim == 1 else weight.T
        gone = ~start.mask[group.name].repeat_interleave(group.width)
        assert not columns[:, gone].any()


def test_a_start_that_is_two_starts(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="masks=ziplm starts from ZipLM's weights"):
        pipeline.run(cofi(tmp_path, hyperparameters={"masks": "ziplm", "prepruning": 1.0}), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"gate_start \(9\) lies beyond reach \(7\)"):
        pipeline.run(cofi(tmp_path, hyperparameters={"gate_start": 9}), tmp_path / "out")


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
    name = "sparsity-0.50/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_a_checkpoint_is_taken_up(finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: Any) -> None:
    """Killed behind a checkpoint of the gates' training: gates, multipliers, optimiser and samples go on where they were."""
    from secateurs.stages import train

    done, recipe, _ = finished
    ordinary = train.Training

    def often(*args: Any, **given: Any) -> train.Training:
        return ordinary(*args, **{**given, "checkpoint_steps": 20})

    monkeypatch.setattr("secateurs.methods._learned.Training", often)
    begun: list[int] = []

    def track(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
        begun.extend([total or 0] if title == "pruning" else [])
        for number, item in enumerate(items):
            if title == "pruning" and number == 30 and len(begun) == 1:
                raise Killed
            yield item

    with pytest.raises(Killed):
        pipeline.run(recipe, tmp_path / "out", track=track)
    pipeline.run(recipe, tmp_path / "out", track=track, resume=True)
    assert begun == [48, 28]
    name = "sparsity-0.50/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_hidden_dimensions_go_too_and_targets_do_not_see_each_other(tmp_path: Path) -> None:
    changes = {"hidden": True}
    both = pipeline.run(cofi(tmp_path, sparsity=(0.5, 0.85), hyperparameters=changes), tmp_path / "both")
    assert 0 < both.models[-1].kept["hidden"].kept < both.models[-1].kept["hidden"].size
    for model in both.models:
        assert 0 <= model.sparsity - model.target <= 0.06
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "both" / model.path)
        assert loaded.classifier.in_features <= loaded.config.hidden_size
        assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    pipeline.run(cofi(tmp_path, sparsity=(0.85,), hyperparameters=changes), tmp_path / "one")
    name = "sparsity-0.85/model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_decoder_to_a_speed_up(tmp_path: Path, model_type: str) -> None:
    recipe = cofi(tmp_path, model_type, "causal-lm", sparsity=(), speedup=(1.8,))
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.8 <= model.predicted_speedup <= 2.1


def test_what_was_learned_is_better_than_the_lot(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Random units, though more of them, are further from the dense model."""
    lot = {"method": "random", "hyperparameters": {}, "sparsity": (), "speedup": (1.5,)}
    (drawn,) = pipeline.run(finished[1].model_copy(update=lot), tmp_path / "out").models
    (learned,) = finished[2].models
    assert learned.sparsity > drawn.sparsity
    assert learned.divergence is not None and drawn.divergence is not None
    assert learned.divergence.value < drawn.divergence.value


def test_another_start(tmp_path: Path) -> None:
    tiny_run.model_folder(tmp_path / "pretrained", initializer_range=0.3)
    recipe = cofi(tmp_path, hyperparameters={"start": str(tmp_path / "pretrained"), "prepruning": 2.0})
    (model,) = pipeline.run(recipe, tmp_path / "out").models
    assert 0.5 <= model.sparsity <= 0.56
    tiny_run.model_folder(tmp_path / "wide", hidden_size=48)
    recipe = cofi(tmp_path, hyperparameters={"start": str(tmp_path / "wide")})
    with pytest.raises(UnsupportedModelError, match=r"of shape .* the teacher"):
        pipeline.run(recipe, tmp_path / "refused")


def test_the_multipliers_climb_and_the_gates_stay_where_they_can_move(tmp_path: Path) -> None:
    """A look into the loop: what Trainer does to the three parameter groups."""
    from secateurs.job import Job
    from secateurs.loading import load
    from secateurs.methods._learned import LearnedPruner
    from secateurs.stages import gates as gates_module
    from secateurs.target import Sparsity

    loaded = load(cofi(tmp_path))
    seen: list[tuple[float, float]] = []
    clamp = gates_module.Gates.clamp

    def spy(self: gates_module.Gates) -> None:
        clamp(self)
        seen.append((self.fine.max().item(), self.fine.min().item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates_module.Gates, "clamp", spy)
        job = Job(
            loaded.model, loaded.structure, loaded.data.calibration, loaded.task, tmp_path, train=loaded.data.train,
            collate=loaded.data.collate, train_batch_size=8,
        )  # fmt: skip
        pruner = LearnedPruner(loaded.method, job)
        from secateurs.cost import ParameterCost

        mask = pruner.choose(Sparsity(0.7).budget(ParameterCost.of(loaded.model, loaded.structure)))
    assert len(seen) == 48
    reach = loaded.method.reach + 1e-6
    assert all(high <= reach and low >= -reach for high, low in seen)
    assert min(low for _, low in seen) < 0
    assert sum(mask.counts.values()) < sum(loaded.structure.sizes.values())
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    pruner.install(mask, "sparsity-0.70")
    moved = [name for name, value in loaded.model.state_dict().items() if not torch.equal(value, before[name])]
    assert not any("embeddings" in name for name in moved if name.endswith("embeddings.weight"))


def test_twins_teach_what_is_left(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """The same masks, and another loss afterwards; where layers are not to be compared, the first one."""
    _, recipe, report = finished

    def run(name: str, **how: Any) -> Any:
        changed = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, **how}})
        (model,) = pipeline.run(changed, tmp_path / name).models
        return model.kept, model.divergence

    first = (report.models[0].kept, report.models[0].divergence)
    twins = run("twins", finetuning_by="twins")
    assert twins[0] == first[0] and twins[1] != first[1]
    assert run("outputs", layer_weight=0.0) == run("both", layer_weight=0.0, finetuning_by="twins")
