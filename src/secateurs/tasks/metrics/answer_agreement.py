"""Exact match and word F1 of a predicted answer, as the evaluation script of SQuAD defines them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["exact_match_and_f1", "normalize_answer"]

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """The text in lower case, without punctuation and articles, with single blanks.

    >>> normalize_answer("The  U.S. of A., an idea")
    'us of idea'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match_and_f1(predicted: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of the words, each with the answer that agrees best.

    An answer that is empty after normalisation is ignored if another answer is not, as in the script of SQuAD.

    Args:
        predicted: predicted answer; ``""`` states that there is none.
        answers: true answers; if there are none, only ``""`` is correct.

    Returns:
        Exact match (0 or 1) and F1 (between 0 and 1).
    """
    true = [text for text in map(normalize_answer, answers) if text] or [""]
    given = normalize_answer(predicted)
    return max(float(given == text) for text in true), max(_f1(given, text) for text in true)


def _f1(predicted: str, true: str) -> float:
    predicted_words, true_words = predicted.split(), true.split()
    if not predicted_words or not true_words:
        return float(predicted_words == true_words)
    common = sum((Counter(predicted_words) & Counter(true_words)).values())
    return 2 * common / (len(predicted_words) + len(true_words))
