"""Files in the format of CoNLL: one word a line with its tags, a blank line between sentences."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from secateurs.errors import DataError
from secateurs.tasks.data.bad_rows import few
from secateurs.tasks.data.text_files import read_text

__all__ = ["ALWAYS", "MAYBE", "Sentences", "read_conll"]

logger = logging.getLogger(__name__)

ALWAYS = {".conll", ".bio", ".iob", ".iob2"}
"""File suffixes of this format."""

MAYBE = {".txt", ".tsv", ".train", ".dev", ".testa", ".testb"}
"""File suffixes of this format and of others; their content decides."""

TAG = re.compile(r"O|[BIESLUM]-\S+")
"""Tag of an entity: outside, or its position in an entity (BIO, BIOES, BILOU) and the kind of the entity."""

NAMES = {2: ("tokens", "ner_tags"), 4: ("tokens", "pos_tags", "chunk_tags", "ner_tags")}
"""Number of columns -> their names. With other numbers, the last column is ``ner_tags`` and the first ``tokens``."""


@dataclass(frozen=True)
class Sentences:
    """Sentences of a file.

    Args:
        columns: column name -> for every sentence, one string a word.
        lines: first line of every sentence, counted from 1.
    """

    columns: dict[str, list[list[str]]]
    lines: list[int]


def read_conll(path: Path) -> Sentences | None:
    """Read the sentences of a file.

    Returns:
        The sentences, or ``None`` if the content of a file whose suffix is not that of the format has another one.

    Raises:
        DataError: a file with the suffix of the format has another content.
    """
    lines = [line.rstrip("\r") for line in read_text(path).split("\n")]
    words = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    separator = "\t" if all("\t" in line for line in words if not line.startswith("# ")) else None
    widths = Counter(len(line.split(separator)) for line in words)
    width = widths.most_common(1)[0][0] if words else 0
    bad = sum(len(line.split(separator)) != width and not line.startswith("# ") for line in words)
    tags = Counter(line.split(separator)[-1].strip() for line in words if len(line.split(separator)) == width)
    unusual = sum(count for tag, count in tags.items() if not TAG.fullmatch(tag))
    if path.suffix.lower() not in ALWAYS and (
        width < 2 or not few(bad, len(words)) or not few(unusual, len(words)) or not any(map(_in_entity, tags))
    ):
        return None
    if width < 2 or not few(bad, len(words)):
        raise DataError(
            f"cannot read {path}: {bad} of {len(words)} lines do not have {max(width, 2)} fields; CoNLL files have one "
            "word a line with its tags, and a blank line between sentences"
        )
    return _sentences(path, lines, separator, width)


def _in_entity(tag: str) -> bool:
    return tag != "O" and TAG.fullmatch(tag) is not None


def _sentences(path: Path, lines: list[str], separator: str | None, width: int) -> Sentences:
    """Divide lines into sentences. A sentence with a line of another width is skipped, a comment is ignored."""
    middle = [f"column_{index}" for index in range(1, width - 1)]
    names = NAMES.get(width, ("tokens", *middle, "ner_tags"))
    columns: dict[str, list[list[str]]] = {name: [] for name in names}
    starts: list[int] = []
    bad: list[int] = []
    words: list[list[str]] = []
    wrong = False
    for number, line in enumerate([*lines, ""], start=1):
        fields = [field.strip() for field in line.split(separator)]
        if not line.strip() or line.startswith("-DOCSTART-"):
            if wrong:
                bad.append(number - 1)
            elif words:
                starts.append(number - len(words))
                for name, values in zip(names, zip(*words, strict=True), strict=True):
                    columns[name].append(list(values))
            words, wrong = [], False
        elif len(fields) == width:
            words.append(fields)
        elif not line.startswith("# "):
            wrong = True
    if bad:
        logger.warning(
            "%s: %d of %d sentences skipped, in which a line does not have %d fields (the first ends at line %d)",
            path, len(bad), len(bad) + len(starts), width, bad[0],
        )  # fmt: skip
    return Sentences(columns, starts)
