"""ROUGE, chrF and BLEU of generated texts, by the libraries that define them: ``rouge-score`` and ``sacrebleu``.

All values are fractions: chrF and BLEU are the usual numbers divided by 100. The libraries are not dependencies of Secateurs
but of its extra ``seq2seq``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from secateurs.errors import RecipeError
from secateurs.tasks.base import Score

__all__ = ["METRICS", "check_library", "score_texts"]


def _rouge(predicted: list[str], references: list[str]) -> tuple[str, float, dict[str, Any]]:
    """Mean over the texts of the F1 of ROUGE-L, with words stemmed; ROUGE-1, ROUGE-2 and ROUGE-Lsum in the details.

    The library keeps the letters a to z and digits only, so that it suits English texts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rougeL", "rouge1", "rouge2", "rougeLsum"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    found: list[Any] = [scorer.score(true, ours) for ours, true in zip(predicted, references, strict=True)]
    value, *others = (sum(each[kind].fmeasure for each in found) / len(found) for kind in kinds)
    return "rougeL", value, dict(zip(kinds[1:], others, strict=True))


def _chrf(predicted: list[str], references: list[str]) -> tuple[str, float, dict[str, Any]]:
    """chrF2 of the corpus: F-score of the character n-grams of 1 to 6 characters, recall counted twice."""
    from sacrebleu import CHRF

    metric = CHRF()
    value = metric.corpus_score(predicted, [references]).score / 100
    return "chrf", value, {"signature": str(metric.get_signature())}


def _bleu(predicted: list[str], references: list[str]) -> tuple[str, float, dict[str, Any]]:
    """BLEU of the corpus, with sacrebleu's default tokens."""
    from sacrebleu import BLEU

    metric = BLEU()
    value = metric.corpus_score(predicted, [references]).score / 100
    return "bleu", value, {"signature": str(metric.get_signature())}


METRICS: dict[str, tuple[str, Callable[[list[str], list[str]], tuple[str, float, dict[str, Any]]]]] = {
    "rouge": ("rouge_score", _rouge),
    "chrf": ("sacrebleu", _chrf),
    "bleu": ("sacrebleu", _bleu),
}
"""Name in a recipe -> module of the library, and the function that returns the name of the score, its value and details."""


def check_library(metric: str) -> None:
    """Check that the library of a metric is installed.

    Args:
        metric: a key of ``METRICS``.

    Raises:
        RecipeError: the library is not installed.
    """
    library = METRICS[metric][0]
    if importlib.util.find_spec(library) is None:
        raise RecipeError(
            f"the metric {metric} needs the package {library.replace('_', '-')}, which is not installed; "
            "install it with `pip install 'secateurs[seq2seq]'`"
        )


def score_texts(metric: str, predicted: Sequence[str], references: Sequence[str]) -> Score:
    """The score of generated texts, each with one reference.

    Args:
        metric: a key of ``METRICS``.
        predicted: generated texts.
        references: true texts, in the same order.
    """
    name, value, details = METRICS[metric][1](list(predicted), list(references))
    return Score(name, value, higher_is_better=True, count=len(predicted), details=details)
