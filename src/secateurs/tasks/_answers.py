"""How well an answer agrees with those that people gave: exact match and F1 of words, as SQuAD defines them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["agreement", "normalised"]

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalised(text: str) -> str:
    """In lower case, without punctuation and articles, with single blanks.

    >>> normalised("The  U.S. of A., an idea")
    'us of idea'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def agreement(predicted: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 with the answer that agrees best; without answers, "" is right.

    Differs from SQuAD's script in nothing: an answer of which normalising leaves nothing does not count where another
    is left.
    """
    wanted = [text for text in map(normalised, answers) if text] or [""]
    given = normalised(predicted)
    return max(float(given == text) for text in wanted), max(_f1(given, text) for text in wanted)


def _f1(given: str, wanted: str) -> float:
    ours, theirs = given.split(), wanted.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
