"""Paths that begin with ``~``: of a model, of data, of a latency table, of a recipe, and of every option of the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import secateurs
import tiny_run
from secateurs import cli
from secateurs.artifacts import expanded, is_path
from secateurs.checkpoint.saved_model import load_saved_model
from secateurs.errors import CheckpointError
from secateurs.pipeline.check_recipe import check_recipe, check_table_exists
from secateurs.pipeline.dry_run import dry_run_table
from secateurs.pipeline.given_table import given_table
from secateurs.pipeline.recipe import Recipe
from secateurs.pipeline.run_folder import claim_folder


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe of a tiny run whose paths begin with ``~``, read in another folder."""
    recipe = tiny_run.recipe(tmp_path / "home")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return recipe.model_copy(update={"model": "~/model", "data": "~/data", "latency_table": "~/latency.json"})


def test_a_recipe_of_the_home_folder_runs(at_home: Recipe, tmp_path: Path) -> None:
    """The model and the data were found there, and the latency table was not."""
    check_recipe(at_home)
    check_table_exists(at_home, None)
    assert given_table(at_home, None) is not None
    assert dry_run_table(at_home).row_count > 0
    claim_folder(tmp_path / "run", at_home)
    found = Recipe.load(tmp_path / "run" / "recipe.yaml")
    home = tmp_path / "home"
    assert (found.model, found.data, found.latency_table) == tuple(
        str(home / name) for name in ("model", "data", "latency.json")
    )
    (home / "recipe.yaml").write_text(at_home.to_yaml())
    assert Recipe.load("~/recipe.yaml") == at_home


def test_a_missing_table_of_the_home_folder_is_named(at_home: Recipe) -> None:
    with pytest.raises(CheckpointError, match=r"no latency table at ~/none\.json"):
        check_table_exists(at_home.model_copy(update={"latency_table": "~/none.json"}), None)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("trust", [False, True])
def test_a_saved_model_of_the_home_folder_is_loaded(tmp_path: Path, *, trust: bool) -> None:
    """By the same way as from its absolute path, with which all of its shapes are checked."""
    found: Any = load_saved_model("~/model", trust_remote_code=trust)
    same: Any = load_saved_model(str(tmp_path / "home" / "model"), trust_remote_code=trust)
    assert type(found) is type(same)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in found.state_dict().items())
    assert type(secateurs.load("~/model")) is type(same)


def test_the_home_of_nobody_is_no_folder() -> None:
    """``Path.expanduser`` raises a RuntimeError for a user that is not there."""
    assert expanded("~nobody-here/model") == Path("~nobody-here/model")
    assert is_path("~nobody-here/model")
    with pytest.raises(CheckpointError, match="the model folder ~nobody-here/model does not exist"):
        load_saved_model("~nobody-here/model", trust_remote_code=False)


def test_every_path_of_a_command_may_begin_with_the_home_folder(
    at_home: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell does not expand ``--out=~/run``, and a folder of the name ``~`` was made."""
    home = tmp_path / "home"
    (home / "recipe.yaml").write_text(at_home.to_yaml())

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["secateurs", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code

    run("prune", "--config=~/recipe.yaml", "--out=~/run", "--quiet")
    assert (home / "run/report.html").is_file()
    run("report", "~/run", "--out=~/page.html")
    assert (home / "page.html").is_file()
    shape = ["--batch-size=2", "--sequence-length=8", "--threads=1", "--seconds=0.1"]
    run("measure", "~/model", "--table=~/measured.json", *shape, "--quiet")
    assert (home / "measured.json").is_file()
    run("inspect", "~/run/speedup-1.50x")
    assert list((tmp_path / "away").iterdir()) == []
