"""Text of a file, in UTF-8 or with a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from secateurs.errors import DataError

__all__ = ["read_text", "refuse_tables"]

LINES = 1000
"""Lines that are searched for tabs."""


def read_text(path: Path) -> str:
    """Read a file without changing its line ends.

    Raises:
        DataError: the file cannot be opened, or it is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"cannot read {path}: line {line} is not UTF-8, and the encoding cannot be known; if it is that of Western "
            f"Windows, convert it with: iconv -f cp1252 -t utf-8 {path.name}"
        ) from error


def refuse_tables(path: Path) -> None:
    """Refuse a text file that is a table: each of its lines has as many tabs.

    Raises:
        DataError: with the ways to read the file.
    """
    lines = [line for line in read_text(path).split("\n")[:LINES] if line.strip()]
    counts = {line.count("\t") for line in lines}
    if len(lines) > 2 and len(counts) == 1 and 0 not in counts:
        raise DataError(
            f"cannot read {path}: tabs divide every line into {counts.pop() + 1} fields, so it is no running text; rename it "
            f"{path.stem}.tsv, if its first line names the columns, or {path.stem}.conll, if it has one word a line with its "
            "tags"
        )
