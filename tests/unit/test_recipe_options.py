"""Options of ``secateurs prune`` are generated from the fields of ``Recipe``: none is missing, and each sets its field."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel, Field

from secateurs import methods, tasks
from secateurs.cli import app
from secateurs.cli.prune import _recipe
from secateurs.cli.recipe_options import recipe_options, recipe_values
from secateurs.errors import RecipeError
from secateurs.pipeline.column_names import ColumnNames
from secateurs.pipeline.recipe import Recipe

FIELDS: dict[str, Any] = {
    "model": "a-model",
    "name": "a name",
    "task": "embedding",
    "data": "some-data",
    "columns": {"text": "sentence", "text_pair": "other", "label": "score"},
    "method": "cofi",
    "preset": "quick",
    "hyperparameters": {"steps": 100, "gate_rate": 0.1, "allow": "rank"},
    "speedup": (1.5, 2.0),
    "sparsity": (0.25, 0.5),
    "keep": (0.98, 0.99),
    "gradual": True,
    "tolerance": 0.1,
    "minutes": 7.5,
    "timing_processes": 4,
    "batch_size": 4,
    "sequence_length": 16,
    "regime": "generation",
    "prompt_length": 24,
    "new_tokens": 12,
    "device": "cuda",
    "dtype": "bfloat16",
    "threads": 2,
    "clock": "cpu",
    "runtime": "another",
    "latency_table": "table.json",
    "elsewhere": True,
    "calibration_samples": 8,
    "calibration_batch_size": 4,
    "evaluation_samples": 9,
    "metric": "rouge",
    "max_new_tokens": 20,
    "recover_epochs": 0.5,
    "recover_steps": 30,
    "learning_rate": 1e-3,
    "train_batch_size": 6,
    "accumulate": 3,
    "trackers": ("wandb", "mlflow"),
    "seed": 7,
    "trust_remote_code": True,
}
"""Every field of ``Recipe`` with a value other than its default."""

OPTIONS = """
    a-model --name "a name" --task embedding --data some-data --text-column sentence --text-pair-column other
    --label-column score --method cofi --preset quick --set steps=100 --set gate-rate=0.1 --allow rank
    --speedup 1.5 --speedup 2 --sparsity 0.25 --sparsity 0.5 --keep 0.98 --keep 0.99
    --gradual --tolerance 0.1 --minutes 7.5 --timing-processes 4 --batch-size 4
    --sequence-length 16 --regime generation --prompt-length 24 --new-tokens 12
    --device cuda --dtype bfloat16 --threads 2 --clock cpu --runtime another
    --latency-table table.json --elsewhere
    --calibration-samples 8 --calibration-batch-size 4 --evaluation-samples 9 --metric rouge --max-new-tokens 20
    --recover-epochs 0.5 --recover-steps 30 --learning-rate 1e-3 --train-batch-size 6
    --accumulate 3 --tracker wandb --tracker mlflow --seed 7 --trust-remote-code
"""
"""The same values on the command line."""


def given(line: str) -> dict[str, Any]:
    """Fields that ``secateurs prune LINE`` takes from its options."""
    prune = typer.main.get_command(app).commands["prune"]  # type: ignore[attr-defined]
    return recipe_values(prune.make_context("prune", shlex.split(line)).params)


def test_every_field_can_be_given() -> None:
    assert FIELDS.keys() == Recipe.model_fields.keys()
    values = given(OPTIONS)
    assert values.keys() == FIELDS.keys()
    for name, value in FIELDS.items():
        assert values[name] == (list(value) if isinstance(value, tuple) else value), name


def test_a_new_field_becomes_an_option() -> None:
    class Longer(Recipe):
        drop_rate: float = Field(0.25, description="Dropout.")
        choices: tuple[int, ...] = Field((), description="Choice.")

    *_, rate, choices = recipe_options(Longer)
    assert (rate.path, rate.kind, rate.info.help) == (("drop_rate",), float, "Dropout. Default: 0.25.")
    assert rate.info.param_decls == ("--drop-rate",)
    assert (choices.kind, choices.info.help) == (list[int], "Choice. May be given several times.")


@pytest.mark.parametrize("model", [Recipe, ColumnNames])
def test_every_field_is_described_in_a_sentence(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert re.fullmatch(r"[A-Z].+\.", field.description or ""), name


def test_nothing_given_leaves_the_defaults() -> None:
    assert given("") == {}
    assert given("a-model --speedup 2") == {"model": "a-model", "speedup": [2.0]}


def test_a_speedup_may_be_a_word() -> None:
    assert given("--speedup auto")["speedup"] == ["auto"]
    assert _recipe({"model": "m", "task": "embedding", "data": "d", **given("--speedup auto")}, None, None).speedup == (
        "auto",
    )


def test_a_shortcut_wins_over_set() -> None:
    assert given("--set allow=rank --allow units")["hyperparameters"] == {"allow": "units"}


@pytest.mark.parametrize(("pair", "message"), [("steps", "name=value"), ("steps=[", "not readable as YAML")])
def test_a_malformed_hyperparameter_is_refused(pair: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        given(f"--set {pair}")


def test_options_replace_fields_of_the_file(tmp_path: Path) -> None:
    fields = {"model": "m", "task": "embedding", "data": "d", "speedup": 2, "trust_remote_code": True}
    file = Recipe.of({**fields, "hyperparameters": {"a": 1, "b": 1}})
    (tmp_path / "recipe.yaml").write_text(file.to_yaml())
    options = given("--no-trust-remote-code --set b=2 --speedup 3")
    for recipe in (_recipe(options, tmp_path / "recipe.yaml", None), _recipe(options, None, tmp_path)):
        assert not recipe.trust_remote_code
        assert recipe.hyperparameters == {"a": 1, "b": 2}
        assert recipe.speedup == (3.0,)
        assert recipe.model == "m"


def test_the_help_names_every_task_and_method() -> None:
    for field, names in (("task", tasks.names()), ("method", methods.names())):
        description = Recipe.model_fields[field].description or ""
        missing = [name for name in names if name.replace("_", "-") not in description]
        assert not missing, f"the description of {field} does not name {missing}"


@pytest.mark.parametrize("module", ["secateurs.cli", "secateurs.pipeline.recipe"])
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'datasets'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_package_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "secateurs.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("prune", "inspect", "measure", "report", "demo"):
        assert command in done.stdout
