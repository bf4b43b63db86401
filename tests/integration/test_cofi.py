"""Complete runs of CoFi on tiny models: the target is met, the saved model has the trained masks, a killed run resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import secateurs
import tiny_run
from secateurs.context import PruneContext
from secateurs.errors import UnsupportedModelError
from secateurs.gates.gates import Gates
from secateurs.gates.mask_learning import MaskLearning
from secateurs.methods.cofi.ziplm_start import ziplm_start
from secateurs.pipeline.load import load
from secateurs.pipeline.recipe import Recipe
from secateurs.report.report import Report
from secateurs.structure.cost import ParameterCost
from secateurs.structure.target import Sparsity

GATES: dict[str, Any] = {
    "steps": 48,
    "epochs": 4.0,
    "ramp": 2.0,
    "rate": 2e-3,
    "gate_rate": 0.25,
    "evaluations": 3,
    "finetuning_steps": 10,
}
"""Fast gates and enough steps to learn which units matter."""

FEW_STEPS: dict[str, Any] = {"steps": 20, "gate_rate": 0.5, "finetuning_steps": 4}
"""The fewest steps in which such gates can close; the budget is met with any gates."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models and data, which the tests share."""
    return tmp_path_factory.mktemp("cofi")


def cofi(place: Path, model_type: str = "bert", task: str = "text-classification", **changes: Any) -> Recipe:
    """The recipe of a short run."""
    gates = {**GATES, **changes.pop("hyperparameters", {})}
    changes = {"speedup": (), "sparsity": (0.5,), **changes}
    return tiny_run.recipe(
        place / model_type, model_type, task, method="cofi", train_batch_size=8, hyperparameters=gates, **changes
    )


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, Recipe, Report]:
    recipe = cofi(place)
    return place / "out", recipe, secateurs.run(recipe, place / "out")


def test_the_sparsity_target_is_met(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, report = finished
    (model,) = report.models
    assert report.target_kind == "sparsity"
    assert model.met
    assert model.target == 0.5
    assert 0.5 <= model.sparsity <= 0.56  # one head of this model is 5 %
    assert model.expected_sparsity == pytest.approx(0.5, abs=0.005)
    assert model.sparsity_with_norms is not None
    assert 0.9 * model.sparsity < model.sparsity_with_norms < model.sparsity  # every norm is left
    assert (out / "sparsity-0.50" / "model.safetensors").is_file()
    assert {"train gates", "search", "fit", "recover"} <= model.seconds.keys()


def test_the_best_and_the_last_masks_are_kept(finished: tuple[Path, Recipe, Report]) -> None:
    out, _, _ = finished
    learned = out / "stages" / "learned" / "sparsity-0.50"
    assert sorted(path.name for path in learned.iterdir()) == ["best.safetensors", "last.safetensors", "masks.json"]
    written = json.loads((learned / "masks.json").read_text())
    assert written["target"] == pytest.approx(0.5)
    assert abs(written["best"]["expected"] - 0.5) <= 0.005
    assert 0 <= written["best"]["realised"] - 0.5 <= 0.06
    assert written["last"]["step"] == 48
    best, last = (load_file(learned / f"{name}.safetensors") for name in ("best", "last"))
    assert best.keys() == last.keys()
    assert {"gates.fine", "gates.coarse", "matching.transform.weight", "model.classifier.weight"} <= best.keys()


@pytest.mark.parametrize("target", [{"sparsity": (0.5,)}, {"sparsity": (), "speedup": (1.8,)}])
def test_from_ziplm_the_target_is_met_in_every_evaluation(
    place: Path, tmp_path: Path, target: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="secateurs")
    how = {"masks": "ziplm", "steps": 33, "rate": 1e-3, "gate_rate": 0.3, "finetuning": 0.0, "finetuning_steps": 0}
    (model,) = secateurs.run(cofi(place, hyperparameters=how, **target), tmp_path / "out").models
    assert (tmp_path / "out" / "stages" / "levels").is_dir()
    expected = [float(text.split()[5]) for text in caplog.messages if "removes" in text]
    wanted = json.loads(next((tmp_path / "out" / "stages" / "learned").glob("*/masks.json")).read_text())["target"]
    assert len(expected) == 3  # the first after a third of the steps: there is no ramp
    assert all(abs(value - 100 * wanted) <= 3 for value in expected)
    assert model.predicted_speedup is not None
    assert 0 <= model.sparsity - 0.5 <= 0.06 or model.predicted_speedup >= 1.8


@pytest.mark.parametrize("hidden", [False, True])
def test_gates_from_ziplm_open_ziplms_mask(place: Path, tmp_path: Path, hidden: bool) -> None:
    loaded = load(cofi(place, hyperparameters={"hidden": hidden}))
    context = PruneContext(loaded.model, loaded.structure, loaded.data.roles.accept.batches, loaded.task, tmp_path)
    dense = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    cost = ParameterCost.of(loaded.model, loaded.structure)
    start = ziplm_start(context, Sparsity(0.6).budget(cost))
    counts = {**cost.sizes, **start.mask.counts}
    assert 0.6 <= float(cost.sparsity(counts)) <= 0.66
    assert all(torch.equal(value, dense[name]) for name, value in loaded.model.state_dict().items())
    gates = Gates(loaded.structure, reach=7.0)
    start.set(gates)
    opened = gates.opened(counts).mask()
    assert all(torch.equal(opened[group.name], start.mask[group.name]) for group in loaded.structure)
    for group in loaded.structure:
        # The columns of removed units are 0: a gate that opens again changes no output at first.
        weight = start.weights[group.output_cut.parameter]
        columns = weight if group.output_cut.dim == 1 else weight.T
        removed = ~start.mask[group.name].repeat_interleave(group.width)
        assert not columns[:, removed].any()


def test_a_run_killed_in_its_trainings_ends_the_same(
    finished: tuple[Path, Recipe, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed three times: before the first checkpoint, after one, and in the fine-tuning with trained gates on disk.

    The checkpoint holds gates, multipliers, the map of the layers, and the states of two optimisers.
    """
    from secateurs.training import trainer

    done, recipe, _ = finished
    training = trainer.Training

    def with_checkpoints(*given: Any, **named: Any) -> trainer.Training:
        return replace(training(*given, **named), checkpoint_steps=20)

    monkeypatch.setattr("secateurs.methods.cofi.steps.Training", with_checkpoints)
    lengths: list[tuple[str, int | None]] = []

    def recorded(track: Any) -> Any:
        def tracked(items: Iterable[Any], title: str, total: int | None = None) -> Iterable[Any]:
            lengths.extend([(title, total)] if title in ("pruning", "recovery") else [])
            return track(items, title, total)

        return tracked

    for resume, stage, step in ((False, "pruning", 5), (True, "pruning", 30), (True, "recovery", 5)):
        with pytest.raises(tiny_run.Killed):
            secateurs.run(recipe, tmp_path / "out", track=recorded(tiny_run.kill_at(stage, step)), resume=resume)
    secateurs.run(recipe, tmp_path / "out", track=recorded(tiny_run.kill_at("", 0)), resume=True)
    assert lengths == [("pruning", 48), ("pruning", 48), ("pruning", 28), ("recovery", 10), ("recovery", 10)]
    name = "sparsity-0.50/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_hidden_dimensions_are_pruned_and_targets_are_independent(place: Path, tmp_path: Path) -> None:
    changes = {"hidden": True, **FEW_STEPS}
    both = secateurs.run(cofi(place, sparsity=(0.5, 0.85), hyperparameters=changes), tmp_path / "both")
    assert 0 < both.models[-1].kept["hidden"].kept < both.models[-1].kept["hidden"].size
    for model in both.models:
        assert 0 <= model.sparsity - model.target <= 0.06
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "both" / model.path)
        assert loaded.classifier.in_features <= loaded.config.hidden_size
        assert sum(parameter.numel() for parameter in loaded.parameters()) == model.parameters
    secateurs.run(cofi(place, sparsity=(0.85,), hyperparameters=changes), tmp_path / "one")
    name = "sparsity-0.85/model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_decoders_meet_a_speedup(place: Path, tmp_path: Path, model_type: str) -> None:
    recipe = cofi(place, model_type, "causal-lm", sparsity=(), speedup=(1.8,), hyperparameters=FEW_STEPS)
    (model,) = secateurs.run(recipe, tmp_path / "out").models
    assert model.predicted_speedup is not None
    assert 1.8 <= model.predicted_speedup <= 2.1


def test_trained_masks_are_better_than_random_ones(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """Random units are further from the dense model, even if more of them are kept."""
    random_units = {"method": "random-units", "hyperparameters": {}, "sparsity": (), "speedup": (1.5,)}
    (random,) = secateurs.run(finished[1].model_copy(update=random_units), tmp_path / "out").models
    (trained,) = finished[2].models
    assert trained.sparsity > random.sparsity
    assert trained.divergence is not None and random.divergence is not None
    assert trained.divergence.value < random.divergence.value


def test_another_model_to_start_from(place: Path, tmp_path: Path) -> None:
    tiny_run.model_folder(tmp_path / "pretrained", initializer_range=0.3)
    how = {**FEW_STEPS, "start": str(tmp_path / "pretrained"), "prepruning": 2.0}
    (model,) = secateurs.run(cofi(place, hyperparameters=how), tmp_path / "out").models
    assert 0.5 <= model.sparsity <= 0.56
    tiny_run.model_folder(tmp_path / "wide", hidden_size=48)
    recipe = cofi(place, hyperparameters={"start": str(tmp_path / "wide")})
    with pytest.raises(UnsupportedModelError, match=r"of shape .* the teacher"):
        secateurs.run(recipe, tmp_path / "refused")


def test_gates_stay_within_reach_and_embeddings_are_frozen(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method without the pipeline: what the training does to gates, multipliers and weights."""
    loaded = load(cofi(place))
    seen: list[tuple[float, float, float]] = []
    after_step = MaskLearning.after_step

    def record(self: MaskLearning, *given: Any) -> None:
        after_step(self, *given)
        fine, multiplier = self.student.gated.gates.fine, self.student.lagrangian.linear
        seen.append((fine.max().item(), fine.min().item(), multiplier.item()))

    monkeypatch.setattr(MaskLearning, "after_step", record)
    context = loaded.context(tmp_path)
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    fitted = loaded.method.fit(context)
    budget = Sparsity(0.7).budget(ParameterCost.of(loaded.model, loaded.structure))
    fitted.train_gates(budget)
    assert len(seen) == 48
    reach = loaded.method.reach + 1e-6  # pyright: ignore[reportAttributeAccessIssue]
    assert all(high <= reach and low >= -reach for high, low, _ in seen)
    assert min(low for _, low, _ in seen) < 0
    assert len({multiplier for *_, multiplier in seen}) > 40  # the multipliers are trained too
    allocation = fitted.allocate(budget)
    assert sum(allocation.values()) < sum(loaded.structure.sizes.values())
    mask = fitted.apply(allocation, budget.folder)
    assert mask.counts == allocation
    moved = [name for name, value in context.model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert not any(name.endswith("embeddings.weight") for name in moved)


def test_finetuning_by_twins(finished: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    """The same masks are trained on another loss. Without layer-wise distillation there is one loss for both settings."""
    done, recipe, report = finished

    def run(name: str, **how: Any) -> Any:
        changed = recipe.model_copy(update={"hyperparameters": {**recipe.hyperparameters, **how}})
        folder = tiny_run.with_trained_gates(done, changed, tmp_path / name)
        (model,) = secateurs.run(changed, folder, resume=True).models
        return model.kept, model.divergence

    kept, divergence = report.models[0].kept, report.models[0].divergence
    twins = run("twins", finetuning_by="twins")
    assert twins[0] == kept and twins[1] != divergence
    assert run("matching") == (kept, divergence)
    outputs = run("outputs", layer_weight=0.0)
    assert outputs[1] not in (divergence, twins[1])
    assert run("outputs-twins", layer_weight=0.0, finetuning_by="twins") == outputs
