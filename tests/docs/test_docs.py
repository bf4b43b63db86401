"""The pages are true: their code runs, their recipes parse, and the options, links and names they mention exist."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import secateurs
from secateurs import methods, tasks
from secateurs.cli import app
from secateurs.latency import runtimes
from secateurs.pipeline.recipe import Recipe
from secateurs.structure import families

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "secateurs"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "LOG.md"])
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
FENCE = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<code>.*?)\n```(?=\n|$)", re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    runs: bool

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks(page) if block.language == language]


def _blocks(page: Path) -> Iterator[Block]:
    text = "\n" + page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        runs = not NOT_RUN.fullmatch(found["before"].strip())
        yield Block(page, line, found["language"], found["code"], runs)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", "\n" + page.read_text(encoding="utf-8"))


PYTHON = blocks("python")
RUNNABLE = [block for block in PYTHON if block.runs]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discards what an example registers."""
    families.model_types(), runtimes.names()  # the files of the library must register in the real tables
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    monkeypatch.setattr(families, "_PLAIN", dict(families._PLAIN))
    monkeypatch.setattr(runtimes, "_RUNTIMES", dict(runtimes._RUNTIMES))


def run(block: Block, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute a block as a module; tracebacks point at the line of the page."""
    module = types.ModuleType("a_page_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look up their annotations there
    lines = "\n" * (block.line - 1) + block.code
    # dont_inherit: this file imports ``annotations`` from ``__future__``, and not every block does.
    exec(compile(lines, str(block.page), "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


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
    assert {"README.md", "design.md", "tutorial.md", "ziplm.md"} <= pages


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
    [command] = shell_lines(code["bash"])
    given = {name: value for name, value in parsed(command).items() if name in Recipe.model_fields and value}
    file = Recipe.of(yaml.safe_load(code["yaml"]))
    python = run(Block(ROOT / "README.md", 1, "python", code["python"], True), monkeypatch)["recipe"]
    assert Recipe.of(given) == file == python


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page: lower case, without punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    missing = [page.name for page in (ROOT / "docs").rglob("*.md") if page != index and page not in linked]
    assert not missing


def test_dotted_names_exist() -> None:
    names = {name for page in PAGES for name in re.findall(r"`(secateurs(?:\.\w+)+)`", prose(page))}
    assert len(names) > 20
    wrong = sorted(name for name in names if not _defined(name))
    assert not wrong, f"the pages name what does not exist: {wrong}"


def _defined(dotted: str) -> bool:
    """Whether a dotted name exists, by the source files. No module is imported."""
    place, parts = SOURCE, dotted.split(".")[1:]
    while parts and (place / parts[0]).is_dir():
        place = place / parts.pop(0)
    file = place / f"{parts[0]}.py" if parts and (place / f"{parts[0]}.py").is_file() else place / "__init__.py"
    parts = parts[1:] if file.stem != "__init__" else parts
    body: list[ast.stmt] = ast.parse(file.read_text()).body
    for part in parts:
        found = next((node for node in body if getattr(node, "name", None) == part), None)
        if found is None:
            return part in secateurs.__all__ and file.parent.name == "secateurs"
        body = getattr(found, "body", [])
    return True


def test_supported_models_are_listed() -> None:
    table = (ROOT / "README.md").read_text().partition("## Supported models")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")][2:]
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row[2])) == families.model_types()


def drawn(name: str) -> str:
    """The text block of docs/design.md that follows the comment ``<!-- name -->``."""
    page = (ROOT / "docs" / "design.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```text\n(.*?)\n```", page, re.DOTALL)
    assert found is not None, f"docs/design.md has no {name}"
    return found[1]


def test_the_floors_are_those_of_the_import_linter() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [layers] = [c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    assert drawn("floors").splitlines() == layers


def test_the_drawn_tree_has_every_room() -> None:
    places = [path for path in SOURCE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"]
    rooms = [path.name + "/" * path.is_dir() for path in places]
    assert sorted(re.findall(r"^(\w\S*)", drawn("tree"), re.MULTILINE)) == sorted(rooms)


def test_the_summary_table_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("summary_table", ROOT / "benchmarks" / "summary_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.table(json.loads((ROOT / "benchmarks" / "results" / "sst2.json").read_text()))
    assert f"<!-- results:begin -->\n{made}\n\n" in (ROOT / "README.md").read_text()


def test_the_readme_has_a_place_for_what_scripts_write() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("demo-output", "results"):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        assert text.count(begin) == text.count(end) == 1
        assert text.index(begin) < text.index(end)


def test_exported_names() -> None:
    assert secateurs.__all__ == sorted(secateurs.__all__)
    assert [name for name in dir(secateurs) if not name.startswith("_")] == secateurs.__all__
    assert all(getattr(secateurs, name) is not None for name in secateurs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        secateurs.prune  # noqa: B018


def test_importing_is_light() -> None:
    code = """
import json, sys
import secateurs
torch = sys.modules.get("torch")
print(json.dumps({
    "cuda": torch is not None and torch.cuda.is_initialized(),
    "modelling": "transformers.modeling_utils" in sys.modules,
}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=250)
    assert json.loads(done.stdout) == {"cuda": False, "modelling": False}
