"""The code in the documentation runs, and its recipes, commands and options exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import secateurs
from doc_pages import FENCE, PAGES, RECIPES, ROOT, SOURCE, Block, blocks, prose, run
from secateurs import methods, tasks
from secateurs.cli import app
from secateurs.latency import runtimes
from secateurs.pipeline.recipe import Recipe
from secateurs.structure import families

PYTHON = blocks("python")
RUNNABLE = [block for block in PYTHON if block.runs]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discards what an example registers."""
    families.model_types(), runtimes.names()  # the files of the library must register in the real tables
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    monkeypatch.setattr(families, "_PLAIN", dict(families._PLAIN))
    monkeypatch.setattr(families, "_STREAMS", dict(families._STREAMS))
    monkeypatch.setattr(runtimes, "_RUNTIMES", dict(runtimes._RUNTIMES))


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.id)
def test_python_blocks_run(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    defined = run(block, monkeypatch)
    for value in defined.values():
        if inspect.isclass(value) and value.__module__ == "a_page_of_the_docs":
            assert not inspect.isabstract(value), f"{value.__name__} leaves {sorted(value.__abstractmethods__)} undone"


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.runs], ids=lambda block: block.id)
def test_python_blocks_that_need_more_name_real_things(block: Block) -> None:
    tree = ast.parse(block.code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "secateurs":
            assert node.attr in secateurs.__all__


def test_there_is_something_to_run() -> None:
    pages = {block.page.name for block in RUNNABLE}
    assert {"README.md", "design.md", "families.md", "tutorial.md", "ziplm.md"} <= pages


def is_recipe(values: object) -> bool:
    return isinstance(values, dict) and {"model", "task"} <= values.keys()


def check_recipe(recipe: Recipe) -> None:
    """Check that the names in a recipe exist, which its types do not say."""
    methods.method(recipe.method, recipe.preset, **recipe.hyperparameters)
    assert recipe.task.replace("-", "_") in tasks.names()
    assert recipe.runtime in runtimes.names()


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.id)
def test_yaml_blocks_are_recipes(block: Block) -> None:
    values = yaml.safe_load(block.code)
    assert is_recipe(values), "a yaml block that is not a recipe needs a separate test"
    check_recipe(Recipe.of(values))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path: Path) -> None:
    recipe = Recipe.load(path)
    check_recipe(recipe)
    assert Recipe.of(yaml.safe_load(recipe.to_yaml())) == recipe
    named = [line for line in path.read_text().splitlines() if "--config" in line]
    assert named
    assert all(f"recipes/{path.name}" in line for line in named)


def test_there_is_a_recipe_for_every_task() -> None:
    assert {Recipe.load(path).task.replace("-", "_") for path in RECIPES} == set(tasks.names())


@cache
def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def shell_lines(code: str) -> list[list[str]]:
    """The commands of a block, split into words.

    A line that ends with a backslash continues on the next one. ``torchrun ... -m secateurs.cli`` counts as ``secateurs``.
    """
    lines = code.replace("\\\n", " ").splitlines()
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    module = "secateurs.cli"
    return [["secateurs", *words[words.index(module) + 1 :]] if module in words else words for words in found]


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of one ``secateurs`` command. The command is not run."""
    return commands()[words[1]].make_context(words[1], words[2:]).params


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.id)
def test_commands_exist(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in shell_lines(block.code):
        assert words[0] in {"secateurs", "make", "pip", "python"}, f"unknown command {words[0]!r}"
        if words[0] == "secateurs":
            given = parsed(words)
            if given.get("config"):
                assert (ROOT / given["config"]).is_file() or not str(given["config"]).startswith("recipes/")
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"no make target {words[1]!r}"
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()


def inline_commands() -> list[tuple[str, str]]:
    """Every ``secateurs ...`` between backticks in prose and code, and in the comments of recipes: ``(file, command)``."""
    sources = [(page, prose(page)) for page in PAGES]
    sources += [(path, path.read_text()) for path in SOURCE.rglob("*.py")]
    found = [(path.name, span) for path, text in sources for span in re.findall(r"`(secateurs [^`\n]+)`", text)]
    in_recipes = [(path.name, line[1:].strip()) for path in RECIPES for line in path.read_text().splitlines()]
    return found + [(name, line) for name, line in in_recipes if line.startswith("secateurs ")]


def test_options_in_the_text_exist() -> None:
    spans = inline_commands()
    assert len(spans) > 5
    for where, span in spans:
        words = span.split()
        names = words[1].split("|") if "|" not in span else re.findall(r"[a-z]+", span)[1:]
        for name in names:
            assert name in commands(), f"{where} names `{span}`, and there is no command {name!r}"
        if len(names) == 1:
            known = {option for parameter in commands()[names[0]].params for option in parameter.opts}
            wrong = [option for option in re.findall(r"--[a-z-]+", span) if option not in known]
            assert not wrong, f"{where} names `{span}`, and {names[0]} has no {wrong[0]}"


def test_the_three_ways_are_the_same_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text().partition("### A classifier, three ways")[2].partition("\n### ")[0]
    code = {found["language"]: found["code"] for found in reversed(list(FENCE.finditer("\n" + text)))}
    top = next(FENCE.finditer("\n" + (ROOT / "README.md").read_text()))["code"]  # the first code of the page
    [command] = [line for line in shell_lines(top) if line[:2] == ["secateurs", "prune"]]
    given = {name: value for name, value in parsed(command).items() if name in Recipe.model_fields and value}
    file = Recipe.of(yaml.safe_load(code["yaml"]))
    python = run(Block(ROOT / "README.md", 1, "python", code["python"], True), monkeypatch)["recipe"]
    assert Recipe.of(given) == file == python
