"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FENCE", "PAGES", "RECIPES", "ROOT", "SOURCE", "Block", "blocks", "prose", "run"]

ROOT = Path(__file__).resolve().parents[1]
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


def run(block: Block, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute a block as a module; tracebacks point at the line of the page."""
    module = types.ModuleType("a_page_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look up their annotations there
    lines = "\n" * (block.line - 1) + block.code
    # dont_inherit: this file imports ``annotations`` from ``__future__``, and not every block does.
    exec(compile(lines, str(block.page), "exec", dont_inherit=True), module.__dict__)
    return module.__dict__
