"""Which folders a run may use, and which of their files it keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from secateurs.errors import RecipeError
from secateurs.methods import settings
from secateurs.pipeline.check_recipe import finetuning, method_settings
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import check_folder, claim_folder, record_processes, resolved

RECIPE = Recipe.of({"model": "m", "task": "embedding", "data": "d", "speedup": (2.0,)})
OTHER = RECIPE.model_copy(update={"speedup": (3.0,)})


def test_a_run_that_never_began_is_replaced(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    (tmp_path / "latency.json").write_text("{}")
    check_folder(tmp_path, RECIPE, resume=False)
    claim_folder(tmp_path, RECIPE)
    assert (tmp_path / "latency.json").is_file()  # the table is still valid for the same recipe
    check_folder(tmp_path, OTHER, resume=False)
    claim_folder(tmp_path, OTHER)
    assert Recipe.load(tmp_path / "recipe.yaml") == resolved(OTHER)
    assert not (tmp_path / "latency.json").exists()


def test_a_latency_table_of_the_user_is_kept(tmp_path: Path) -> None:
    table = tmp_path / "latency.json"
    table.write_text("{}")
    with pytest.raises(RecipeError, match="not empty"):
        check_folder(tmp_path, RECIPE, resume=False)
    claim_folder(tmp_path, RECIPE)
    claim_folder(tmp_path, OTHER.model_copy(update={"latency_table": str(table)}))
    assert table.is_file()


def test_a_run_that_began_is_only_resumed(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    (tmp_path / "stages").mkdir()
    (tmp_path / ".speedup-2.00x.7.partial").mkdir()
    with pytest.raises(RecipeError, match="not empty"):
        check_folder(tmp_path, RECIPE, resume=False)
    with pytest.raises(RecipeError, match="speedup differ"):
        check_folder(tmp_path, OTHER, resume=True)
    check_folder(tmp_path, RECIPE, resume=True)
    claim_folder(tmp_path, RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "stages"]


def test_a_hyperparameter_of_an_option_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.model_copy(update={"hyperparameters": {"steps": 1, "rounds": 2}}).to_yaml())
    assert Recipe.load(file, hyperparameters={"steps": 5}).hyperparameters == {"steps": 5, "rounds": 2}


def test_relative_paths_of_a_run_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "data", "start", "elsewhere"):
        (tmp_path / "here" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    values = {"model": "model", "task": "embedding", "data": "./data:en", "method": "cofi", "speedup": 2}
    recipe = Recipe.of({**values, "hyperparameters": {"start": "start"}})
    claim_folder(tmp_path / "run", recipe)
    check_folder(tmp_path / "run", recipe, resume=True)
    monkeypatch.chdir(tmp_path / "here" / "elsewhere")
    found = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert resolved(found) == found
    paths = (found.model, found.data, found.hyperparameters["start"])
    assert paths == tuple(str(tmp_path / "here" / name) for name in ("model", "data:en", "start"))


def test_a_run_folder_says_every_value_that_was_used(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    saved = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert saved.keys() == Recipe.model_fields.keys()
    assert saved["hyperparameters"] == asdict(settings("ziplm"))
    assert (saved["recover_epochs"], saved["learning_rate"]) == (0.0, 5e-5)
    (tmp_path / "recipe.yaml").write_text(RECIPE.to_yaml())  # as earlier versions wrote it
    (tmp_path / "stages").mkdir()
    check_folder(tmp_path, RECIPE, resume=True)


def test_the_recipe_of_a_run_folder_serves_other_methods_and_presets(tmp_path: Path) -> None:
    """Its hyperparameters are not those of another method, and would hide those of another preset."""
    claim_folder(tmp_path, RECIPE)
    file = tmp_path / "recipe.yaml"
    assert resolved(Recipe.load(file, preset="paper")).hyperparameters == asdict(settings("ziplm", "paper"))
    assert Recipe.load(file, method="cofi", hyperparameters={"epochs": 9.0}).hyperparameters == {"epochs": 9.0}
    assert Recipe.load(file, method="ziplm", hyperparameters={"steps": 9}).hyperparameters["damping"] == 1e-2


EPOCHS = {"cofi": 20, "fac": 10, "flop": 2, "uniform": 0}
OTHERS: list[dict[str, Any]] = [
    {"method": "cofi"},
    {"method": "cofi", "preset": "quick"},
    {"method": "fac"},
    {"method": "flop"},
    {"method": "uniform"},
    {"preset": "paper"},
]


@pytest.mark.parametrize("changes", OTHERS)
def test_another_method_or_preset_decides_its_fine_tuning(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The file of a ziplm run says 0 epochs at 5e-5, because ziplm decided that; cofi and fac then trained for 0 epochs."""
    claim_folder(tmp_path, RECIPE)
    found = Recipe.load(tmp_path / "recipe.yaml", **changes)
    fresh = RECIPE.model_copy(update=changes)
    assert finetuning(found, method_settings(found)) == finetuning(fresh, method_settings(fresh))
    assert resolved(found) == resolved(fresh)
    if changes.get("method") in EPOCHS and "preset" not in changes:
        assert finetuning(found, method_settings(found)).epochs == EPOCHS[changes["method"]]


def test_a_fine_tuning_that_a_user_gave_serves_other_methods(tmp_path: Path) -> None:
    """What the method would have decided is another value, so this one is the user's."""
    claim_folder(tmp_path / "run", RECIPE.model_copy(update={"recover_epochs": 3.0}))
    found = Recipe.load(tmp_path / "run" / "recipe.yaml", method="fac")
    assert (found.recover_epochs, found.learning_rate) == (3.0, None)
    short = tmp_path / "short.yaml"  # written by a user: every value in it is meant
    short.write_text(RECIPE.model_copy(update={"recover_epochs": 0.0, "learning_rate": 5e-5}).to_yaml())
    found = Recipe.load(short, method="fac")
    assert (found.recover_epochs, found.learning_rate) == (0.0, 5e-5)
    assert Recipe.load(tmp_path / "run" / "recipe.yaml", preset="default").recover_epochs == 3.0


def test_another_spelling_of_a_method_is_no_other_method(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"method": "neuron-pruning", "hyperparameters": {"steps": 7}})
    claim_folder(tmp_path, recipe)
    assert Recipe.load(tmp_path / "recipe.yaml", method="neuron_pruning").hyperparameters["steps"] == 7


def test_a_training_is_resumed_by_as_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_folder(tmp_path, RECIPE)
    record_processes(tmp_path)
    check_folder(tmp_path, RECIPE, resume=True)
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="a run of 1 processes, and this one has 2"):
        check_folder(tmp_path, RECIPE, resume=True)


def test_a_model_whose_replacement_was_killed_comes_back(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    for name in (".speedup-2.00x.7.older", ".speedup-3.00x.7.older", "speedup-3.00x", "stages"):
        (tmp_path / name).mkdir()
    (tmp_path / ".speedup-2.00x.7.older" / "config.json").write_text("{}")
    (tmp_path / "speedup-3.00x" / "config.json").write_text("new")
    claim_folder(tmp_path, RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "recipe.yaml",
        "speedup-2.00x",
        "speedup-3.00x",
        "stages",
    ]
    assert (tmp_path / "speedup-2.00x" / "config.json").read_text() == "{}"
    assert (tmp_path / "speedup-3.00x" / "config.json").read_text() == "new"
