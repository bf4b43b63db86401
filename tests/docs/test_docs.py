"""The documentation holds together: links, names, drawings and tables are those of the code; and what the package exports."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import secateurs
from doc_pages import PAGES, ROOT, SOURCE, prose
from secateurs.structure import families


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
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        secateurs.shrink  # noqa: B018


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
