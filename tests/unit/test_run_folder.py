"""Which folders a run may use, and which of their files it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateurs.errors import RecipeError
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import check_folder, claim_folder

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
    assert Recipe.load(tmp_path / "recipe.yaml") == OTHER
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
