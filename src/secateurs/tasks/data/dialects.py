"""CSV and TSV files: delimiter and quoting are found in the file, and no word is taken for a missing value."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.errors import DataError
from secateurs.tasks.data.bad_rows import few
from secateurs.tasks.data.text_files import read_text

__all__ = ["Table", "read_table"]

logger = logging.getLogger(__name__)

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""Delimiter -> its name in messages."""

NO_DELIMITER = "\x1f"
"""Delimiter of a file with one column that has no quotes."""

QUOTINGS: tuple[dict[str, Any], ...] = (
    {"strict": True},  # RFC 4180: fields in double quotes, a quote inside is doubled
    {"strict": True, "doublequote": False, "escapechar": "\\"},
    {"quoting": csv.QUOTE_NONE},
    {"strict": True, "quotechar": "'"},
)
"""Settings of the ``csv`` module for the four quotings, in the order in which they are tried."""

MAX_UNCLOSED = 20
"""Unclosed quotes after which a quoting is given up, because each of them costs a pass over the rest of the file."""

Record = tuple[int, list[str]]
"""First line of a record, counted from 1, and its fields."""


@dataclass(frozen=True)
class Table:
    """Cells of a file.

    Args:
        columns: column name -> values: integers, floats or booleans where all cells are, otherwise texts. An empty cell
            is ``None``.
        lines: line of every row.
    """

    columns: dict[str, list[Any]]
    lines: list[int]


@dataclass(frozen=True)
class Reading:
    """A file read with one delimiter and one quoting.

    Args:
        delimiter: character between fields.
        quoting: settings of the ``csv`` module.
        header: names of the columns.
        rows: records that fit the header.
        bad: first line and number of fields of each record that does not (0 fields: its quotes are not closed).
    """

    delimiter: str
    quoting: dict[str, Any]
    header: list[str]
    rows: list[Record]
    bad: list[tuple[int, int]]

    @property
    def fits(self) -> bool:
        """Whether nearly all records have as many fields as the header."""
        return few(len(self.bad), len(self.rows) + len(self.bad))

    def __str__(self) -> str:
        return f"{DELIMITERS[self.delimiter]} give the columns {', '.join(self.header)}"


def read_table(path: Path) -> Table:
    """Read a file with a header, whatever its delimiter and quoting.

    Raises:
        DataError: the file has no header, its encoding is unknown, or no delimiter or two of them fit all rows.
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    hint = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None  # Excel's line about the delimiter
    first = 1 if hint else 0
    while first < len(lines) and not lines[first].strip():
        first += 1
    if first == len(lines):
        raise DataError(f"cannot read {path}: the file is empty")
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reading = _find(path, lines, first, (hint.group(1),) if hint else tuple(DELIMITERS))
    finally:
        csv.field_size_limit(limit)
    if reading.bad:
        logger.warning(
            "%s: %d of %d rows skipped, which do not have the %d fields of the header (the first is line %d)",
            path, len(reading.bad), len(reading.rows) + len(reading.bad), len(reading.header), reading.bad[0][0],
        )  # fmt: skip
    cells = [list(column) for column in zip(*(fields for _, fields in reading.rows), strict=True)]
    cells = cells or [[] for _ in reading.header]
    columns = dict(zip(reading.header, map(_typed, cells), strict=True))
    return Table(columns, [line for line, _ in reading.rows])


def _find(path: Path, lines: list[str], first: int, delimiters: tuple[str, ...]) -> Reading:
    there = [delimiter for delimiter in delimiters if delimiter in lines[first]]
    found = [reading for delimiter in there if (reading := _read(lines, first, delimiter)) is not None]
    fitting = [reading for reading in found if reading.fits]
    if len(fitting) > 1:
        raise DataError(
            f"cannot read {path}: two delimiters fit all rows; {' and '.join(map(str, fitting))}. Keep one: put names "
            "and texts that contain the other one in double quotes"
        )
    if fitting:
        return fitting[0]
    if found:
        best = max(found, key=lambda reading: len(reading.rows))
        line, width = best.bad[0]
        what = f"has {width} fields" if width else "has quotes that are not closed"
        raise DataError(
            f"cannot read {path}: {best}, but {len(best.bad)} of {len(best.rows) + len(best.bad)} rows do not fit "
            f"(line {line} {what}); put texts that contain {DELIMITERS[best.delimiter]} in double quotes"
        )
    return _one_column(path, lines, first)


def _one_column(path: Path, lines: list[str], first: int) -> Reading:
    """Read a file whose header has no delimiter: one text a line, or one quoted text a record."""
    body = [line for line in lines[first + 1 :] if line.strip()]
    for delimiter, name in DELIMITERS.items():
        counts = {line.count(delimiter) for line in body}
        if len(body) > 2 and len(counts) == 1 and 0 not in counts and '"' not in body[0]:
            raise DataError(
                f"cannot read {path}: {name} divide every row into {counts.pop() + 1} fields, and the first line "
                f"{lines[first].strip()!r} names one column; name all columns in the first line"
            )
    quoted = _read(lines, first, ",", quotings=QUOTINGS[:2], width=1)
    if quoted is not None and not quoted.bad:
        return quoted
    plain = _read(lines, first, NO_DELIMITER, quotings=QUOTINGS[2:3], width=1)
    assert plain is not None
    return plain


def _read(
    lines: list[str], first: int, delimiter: str, quotings: tuple[dict[str, Any], ...] = QUOTINGS, width: int = 2
) -> Reading | None:
    """The first quoting by which all records fit the header, otherwise the one by which most do.

    Args:
        lines: lines of the file.
        first: index of the header.
        delimiter: character between fields.
        quotings: quotings to try.
        width: minimum number of columns.

    Returns:
        The reading, or ``None`` if the header has fewer columns under every quoting.
    """
    best: Reading | None = None
    for quoting in quotings:
        if quoting.get("escapechar") and not any('\\"' in line for line in lines):
            continue
        reading = _parse(lines, first, delimiter, quoting)
        if reading is None or len(reading.header) < width:
            continue
        if best is not None and not _plausible(reading):
            continue
        # Where every line fits as it stands, a quote that opens in one line and closes in another is a stray one.
        lines_fit = width > 1 and quoting.get("quoting") == csv.QUOTE_NONE and not reading.bad
        if best is None or len(reading.bad) < len(best.bad) or (lines_fit and len(reading.rows) > len(best.rows)):
            best = reading
        if not best.bad and len(best.rows) == sum(1 for line in lines[first + 1 :] if line.strip()):
            break
    return best


def _plausible(reading: Reading) -> bool:
    """Whether the quotes at the start of fields agree with the quoting.

    Where nothing is quoted, most fields that begin with a quote do not end with one.
    """
    if reading.quoting.get("quoting") != csv.QUOTE_NONE:
        return True
    opened = [field for _, fields in reading.rows for field in fields if field.startswith('"')]
    enclosed = sum(len(field) > 1 and field.endswith('"') for field in opened)
    return 2 * enclosed <= len(opened)


def _parse(lines: list[str], first: int, delimiter: str, quoting: dict[str, Any]) -> Reading | None:
    """Read all records; after a record with a wrong quote, reading goes on at its next line."""
    header: list[str] | None = None
    rows: list[Record] = []
    bad: list[tuple[int, int]] = []
    start, unclosed = first, 0
    while start < len(lines):
        reader = csv.reader(lines[start:] if start else lines, delimiter=delimiter, **quoting)
        done = 0
        try:
            for fields in reader:
                line, done = start + done, reader.line_num
                if not fields or (len(fields) == 1 and not fields[0].strip()):
                    continue
                if header is None:
                    header = _names(fields)
                    continue
                while len(fields) > len(header) and not fields[-1]:
                    fields.pop()
                if len(fields) == len(header) or 1 < len(fields) < len(header):
                    rows.append((line + 1, fields + [""] * (len(header) - len(fields))))
                else:
                    bad.append((line + 1, len(fields)))
            break
        except csv.Error:
            unclosed += start + reader.line_num >= len(lines)
            bad.append((start + done + 1, 0))
            start += done + 1
            if header is None or unclosed > MAX_UNCLOSED or not few(len(bad), len(lines)):
                return Reading(delimiter, quoting, header, rows, bad) if header is not None else None
    return Reading(delimiter, quoting, header, rows, bad) if header is not None else None


def _names(fields: list[str]) -> list[str]:
    """Column names as pandas makes them unique, without blanks and enclosing quotes."""
    names: list[str] = []
    for index, field in enumerate(fields):
        name = field.strip()
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = name[1:-1]
        name = name or f"Unnamed: {index}"
        unique, number = name, 0
        while unique in names:
            number += 1
            unique = f"{name}.{number}"
        names.append(unique)
    return names


TYPES: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"\s*[+-]?\d{1,18}\s*", int),
    (r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", float),
    (r"True|TRUE|true|False|FALSE|false", lambda cell: cell.lower() == "true"),
)
"""Pattern of a cell, and the function that converts it."""


def _typed(cells: list[str]) -> list[Any]:
    """The cells of a column as numbers or booleans if all of them are, otherwise as texts."""
    for pattern, convert in TYPES:
        if all(not cell or re.fullmatch(pattern, cell) for cell in cells):
            return [convert(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]
