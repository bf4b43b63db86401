"""Data set of the demo: a small retrieval collection made of the docstrings of Python's standard library.

Source files are read as text; nothing is imported or executed. A query is the summary line of a docstring, and the rest of
the docstring is the only relevant document. The texts depend on the version of Python.
"""

from __future__ import annotations

import ast
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from secateurs.errors import DataError

__all__ = ["build", "docstrings"]

SKIPPED = {
    "__pycache__",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
"""Folders of the standard library that are not searched."""
# A string literal at the start of a block is a docstring. The pattern is much faster than parsing every file.
DOCSTRING = re.compile(r':[ \t]*(?:#[^\n]*)?\n[ \t]*\n?[ \t]*([rR]?"""(?:[^"\\]|\\.|"(?!""))*""")', re.DOTALL)
SUMMARY_WORDS = range(4, 31)
"""Accepted numbers of words in a query."""
DOCUMENT_WORDS = range(10, 301)
"""Accepted numbers of words in a document."""


def build(folder: Path, *, num_documents: int = 2000, num_queries: int = 300, seed: int = 0) -> Path:
    """Write ``corpus``, ``queries`` and ``qrels`` as Parquet files, in the format that the embedding task reads.

    Args:
        folder: folder for the files; it is created if it does not exist.
        num_documents: largest number of documents.
        num_queries: largest number of queries; each query has one relevant document.
        seed: seed of the random choice of documents and queries.

    Returns:
        ``folder``.

    Raises:
        DataError: this Python installation has no source files of its standard library.
    """
    import pyarrow
    from pyarrow import parquet

    pairs = list(docstrings())
    if not pairs:
        raise DataError(
            f"no docstrings in {_library()}: this Python has no source files of its standard library; "
            "prune a model on other data with `secateurs prune`"
        )
    chosen = random.Random(seed).sample(pairs, min(num_documents, len(pairs)))
    asked = sorted(random.Random(seed + 1).sample(range(len(chosen)), min(num_queries, len(chosen))))
    tables = {
        "corpus": {"doc_id": list(range(len(chosen))), "text": [document for _, document in chosen]},
        "queries": {"query_id": list(range(len(asked))), "text": [chosen[i][0] for i in asked]},
        "qrels": {"query_id": list(range(len(asked))), "doc_id": asked, "relevance": [1] * len(asked)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        parquet.write_table(pyarrow.table(table), folder / f"{name}.parquet")
    return folder


def docstrings() -> Iterator[tuple[str, str]]:
    """Find docstrings that make a query and its relevant document.

    A docstring is skipped if its summary or its rest has too few or too many words, if the rest contains the summary
    literally, or if the same summary or rest has occurred before.

    Yields:
        Summary line and rest of a docstring, each on one line, in the order of the files.
    """
    seen: set[str] = set()
    for path in _files(_library()):
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for literal in DOCSTRING.findall(source):
            summary, _, rest = _value(literal).strip().partition("\n\n")
            summary, rest = " ".join(summary.split()), " ".join(rest.split())
            if len(summary.split()) not in SUMMARY_WORDS or len(rest.split()) not in DOCUMENT_WORDS:
                continue
            if summary.lower().rstrip(".") in rest.lower() or summary in seen or rest in seen:
                continue
            seen |= {summary, rest}
            yield summary, rest


def _library() -> Path:
    """Folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def _files(folder: Path) -> Iterator[Path]:
    """Python files below a folder in alphabetical order, without the ``SKIPPED`` folders."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.name.endswith(".py"):
            yield Path(entry.path)


def _value(literal: str) -> str:
    """Text of a string literal; empty if it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some docstrings contain deprecated escape sequences
            return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        return ""
