"""Files in the format of fastText: a text a line, after the labels that it has (``__label__spam free money``)."""

from __future__ import annotations

import re
from pathlib import Path

from secateurs.tasks.data.dialects import Table
from secateurs.tasks.data.text_files import read_text

__all__ = ["read_fasttext"]

LABELLED = re.compile(r"((?:__label__\S+\s+)+)(\S.*)")
"""A line: its labels, and its text."""

PREFIX = "__label__"


def read_fasttext(path: Path) -> Table | None:
    """Read the texts and labels of a file.

    Returns:
        The columns ``text`` and ``label``, which holds lists if some text has several labels; ``None`` if the lines of the
        file do not begin with labels.
    """
    with path.open("rb") as file:
        if not file.readline().removeprefix(b"\xef\xbb\xbf").startswith(PREFIX.encode()):
            return None
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    found = [LABELLED.fullmatch(line) for _, line in lines]
    if None in found:
        return None
    texts = [match.group(2) for match in found if match is not None]
    labels = [[label.removeprefix(PREFIX) for label in match.group(1).split()] for match in found if match is not None]
    single = all(len(each) == 1 for each in labels)
    column = [each[0] for each in labels] if single else labels
    return Table({"text": texts, "label": column}, [number for number, _ in lines])
