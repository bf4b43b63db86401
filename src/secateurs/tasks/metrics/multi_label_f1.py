"""F1 of texts that may have several classes each, or none, as scikit-learn's ``f1_score`` counts it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

__all__ = ["MultiLabelScore", "score_classes"]


@dataclass(frozen=True)
class MultiLabelScore:
    """Fractions between 0 and 1.

    Args:
        micro_f1: F1 of all decisions, one per text and class.
        macro_f1: mean over the classes of the F1 of each class; the F1 of a class that is neither true nor predicted is 0.
        precision: share of the predicted classes that are true.
        recall: share of the true classes that are predicted.
        subset_accuracy: share of the texts of which all classes are correct.
    """

    micro_f1: float
    macro_f1: float
    precision: float
    recall: float
    subset_accuracy: float


def score_classes(predicted: Bool[Tensor, "texts classes"], true: Bool[Tensor, "texts classes"]) -> MultiLabelScore:
    """``F1 = 2 TP / (2 TP + FP + FN)``, of all decisions and of each class.

    Args:
        predicted: whether a class is predicted for a text.
        true: whether a text has a class.
    """
    hits, guesses, truths = ((predicted & true).sum(0), predicted.sum(0), true.sum(0))
    per_class = 2 * hits.double() / (guesses + truths).clamp_min(1)
    hit, guessed, wanted = int(hits.sum()), int(guesses.sum()), int(truths.sum())
    return MultiLabelScore(
        micro_f1=2 * hit / max(guessed + wanted, 1),
        macro_f1=per_class.mean().item(),
        precision=hit / max(guessed, 1),
        recall=hit / max(wanted, 1),
        subset_accuracy=(predicted == true).all(-1).double().mean().item(),
    )
