"""The answers of a model to single texts, by which ``--keep`` compares a pruned model with the dense one.

With labels, an answer is right or wrong. Without, it is right if the dense model gives the same.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from secateurs.errors import RecipeError
from secateurs.tasks.batch import Batch

__all__ = ["AGREEMENT", "AnswerScores", "Answers", "scored_by_equality"]

AGREEMENT = "agreement with the dense answers"
"""Measure of tasks whose data has no labels."""


class AnswerScores(NamedTuple):
    """Scores of two models' answers, text by text. A score is the sum of the numerators / the sum of the denominators.

    Args:
        measure: what the score is.
        ours: numerator and denominator of the pruned model.
        dense: the same of the dense model.
        nats: the score is a mean negative log-likelihood, so that less is better.
    """

    measure: str
    ours: Float[Tensor, "texts 2"]
    dense: Float[Tensor, "texts 2"]
    nats: bool = False


class Answers:
    """The part of a task that gives answers; a task without it refuses ``keep``."""

    name: ClassVar[str]
    texts_to_choose: ClassVar[int] = 4096
    """Largest number of texts on which ``keep`` chooses a speed-up."""
    texts_to_report: ClassVar[int] = 4096
    """Largest number of texts on which the kept quality is reported; their compared outputs are held in memory."""

    def answers(self, outputs: Any, batch: Batch) -> Shaped[Tensor, "texts ..."]:
        """What a model says about every text of a batch, in a form that is small to store.

        Raises:
            RecipeError: the task has no answers that are right or wrong.
        """
        raise RecipeError(f"keep is not defined for the task {self.name.replace('_', '-')}; give a speed-up")

    def score_answers(
        self, ours: Shaped[Tensor, "texts ..."], dense: Shaped[Tensor, "texts ..."], batch: Batch
    ) -> AnswerScores:
        """Score the answers of a pruned model and of the dense model, by the labels of the batch if it has some.

        By default an answer is right if it equals the label (``scored_by_equality``).

        Args:
            ours: answers of the pruned model, on the CPU.
            dense: answers of the dense model.
            batch: the batch, on the CPU.
        """
        return scored_by_equality(ours, dense, batch.get("labels"))


def scored_by_equality(
    ours: Shaped[Tensor, "texts ..."],
    dense: Shaped[Tensor, "texts ..."],
    labels: Shaped[Tensor, "texts ..."] | None,
    measure: str = "accuracy",
) -> AnswerScores:
    """An answer is right if all of it equals the label, or without labels the dense answer."""
    truth = dense if labels is None else labels
    right, dense_right = ((side == truth).reshape(len(truth), -1).all(-1).double() for side in (ours, dense))
    one = torch.ones_like(right)
    return AnswerScores(
        AGREEMENT if labels is None else measure, torch.stack([right, one], -1), torch.stack([dense_right, one], -1)
    )
