"""JSON files that are one object: the official files of SQuAD, rows under the key ``data``, and columns (pandas)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateurs.errors import DataError
from secateurs.tasks.data.text_files import read_text

__all__ = ["read_object"]


def read_object(path: Path) -> list[dict[str, Any]] | None:
    """Read the rows of a file that is one JSON object.

    Returns:
        The rows, or ``None`` if the file has another form (an array, JSON lines).

    Raises:
        DataError: the object holds several lists of rows, or the file is not in UTF-8.
    """
    with path.open("rb") as file:
        first = file.readline().strip()
        if not first.lstrip(b"\xef\xbb\xbf").startswith(b"{"):
            return None
        if _is_json(first) and file.readline().strip():
            return None  # JSON lines
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return None
    lists = {key: rows for key, rows in found.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    if len(lists) > 1:
        raise DataError(
            f"cannot read {path}: it holds several lists of rows ({', '.join(lists)}); save each as a file of its own, "
            "such as train.json and test.json"
        )
    if not lists:
        return _columns(found)
    (rows,) = lists.values()
    return [row for article in rows for row in _questions(path, article)] if "paragraphs" in rows[0] else rows


def _questions(path: Path, article: dict[str, Any]) -> list[dict[str, Any]]:
    """Questions of one article of SQuAD, in the columns of the data set ``squad`` on the hub."""
    try:
        return [
            {
                "id": str(question.get("id", "")),
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": question["question"],
                "answers": {
                    "text": [answer["text"] for answer in question.get("answers", [])],
                    "answer_start": [answer["answer_start"] for answer in question.get("answers", [])],
                },
            }
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: a paragraph is not in the form of SQuAD ({error!r})") from error


def _columns(found: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of an object of columns, each a list of values, or an object of values by row number."""
    values = list(found.values())
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1:
        return [{name: value[key] for name, value in found.items()} for key in values[0]]
    return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return True
