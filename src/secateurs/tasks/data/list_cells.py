"""Lists in cells of a table: as lists, or as the text of one, as pandas writes it to CSV (``"['a', 'b']"``)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import Any

from secateurs.errors import DataError

__all__ = ["as_list", "lists_or_texts"]


def as_list(value: Any) -> list[Any] | None:
    """The list that a cell holds, or ``None`` if it holds none."""
    if isinstance(value, str) and _brackets(value):
        try:
            found = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            return None
        return found if isinstance(found, list) and not _joins_strings(value, found) else None
    return value if isinstance(value, list) else None


def lists_or_texts(values: list[Any], where: str) -> list[Any]:
    """The cells of a column: parsed, if all of them hold a list as text, otherwise as they are.

    Args:
        values: cells of the column.
        where: column and data set, for error messages.

    Raises:
        DataError: all cells have brackets, and some hold no list (an array of numpy has no commas).
    """
    if not values or not all(isinstance(value, str) and _brackets(value) for value in values):
        return values
    parsed = [as_list(value) for value in values]
    if None in parsed:
        raise DataError(
            f"{where} holds {values[parsed.index(None)][:60]!r}, which looks like a list and is none; save the data as JSON "
            "lines or Parquet, which keep lists"
        )
    return parsed


def _brackets(value: str) -> bool:
    return value.strip().startswith("[") and value.strip().endswith("]")


def _joins_strings(value: str, found: list[Any]) -> bool:
    """Whether two strings stand side by side without a comma, which Python reads as one string."""
    if not re.search(r"""['"]\s+['"]""", value):
        return False
    tokens = tokenize.generate_tokens(io.StringIO(value.strip().replace("\n", " ")).readline)
    return sum(token.type == tokenize.STRING for token in tokens) > sum(isinstance(each, str) for each in found)
