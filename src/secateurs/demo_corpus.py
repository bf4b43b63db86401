"""A small search collection that is always at hand: the documentation of the running Python's standard library.

The source files are read as text; nothing is imported or run. A query is the summary line of a docstring, its one
relevant document the rest of that docstring. The texts differ from one version of Python to the next.
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
# A string literal that opens a block is a docstring: much quicker than a syntax tree of every file.
DOCSTRING = re.compile(r':[ \t]*(?:#[^\n]*)?\n[ \t]*\n?[ \t]*([rR]?"""(?:[^"\\]|\\.|"(?!""))*""")', re.DOTALL)
SUMMARY_WORDS = range(4, 31)
DOCUMENT_WORDS = range(10, 301)


def build(folder: Path, *, num_documents: int = 2000, num_queries: int = 300, seed: int = 0) -> Path:
    """Write ``corpus``, ``queries`` and ``qrels`` as Parquet files that the embedding task can read.

    Args:
        folder: where; made if it is not there.
        num_documents: at most this many.
        num_queries: at most this many; each has one relevant document.
        seed: of the choice of documents and queries.

    Returns:
        ``folder``.

    Raises:
        DataError: this Python comes without the sources of its library.
    """
    import pyarrow
    from pyarrow import parquet

    pairs = list(docstrings())
    if not pairs:
        raise DataError(
            f"no docstrings in {_library()}: this Python has no sources of its library; give data of your own"
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
    """Summary and rest of every docstring that has both, in the order of the files; neither comes twice.

    Where the rest contains the summary word for word, or is hardly text, the docstring is left out.
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
    return Path(sysconfig.get_path("stdlib"))


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.name.endswith(".py"):
            yield Path(entry.path)


def _value(literal: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in the library's own docstrings
            return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        return ""
