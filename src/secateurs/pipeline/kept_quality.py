"""How much of the dense model's quality a pruned model keeps on some texts: their answers are paired, text by text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateurs.errors import DataError
from secateurs.numerics.kept_fraction import KeptFraction, kept_fraction
from secateurs.pipeline.load import Loaded
from secateurs.tasks.base import Batch
from secateurs.tasks.data.batches import forward

__all__ = ["FoundQuality", "answers_of", "kept_quality"]


class FoundQuality(NamedTuple):
    """The kept quality on some texts.

    Args:
        measure: what the quality is, such as ``"accuracy"``.
        fraction: score of the pruned model / score of the dense model, with bounds.
        texts: number of texts.
    """

    measure: str
    fraction: KeptFraction
    texts: int


def answers_of(loaded: Loaded, model: Any, batches: Sequence[Batch]) -> list[Tensor]:
    """The answers of a model to every batch, on the CPU."""
    outputs = forward(model, batches, loaded.recipe.device)
    return [loaded.task.answers(output, batch).cpu() for output, batch in outputs]


def kept_quality(
    loaded: Loaded, model: nn.Module, batches: Sequence[Batch], dense: Sequence[Tensor], *, confidence: float
) -> FoundQuality:
    """Score a pruned model beside the dense one.

    Args:
        loaded: everything that the recipe names.
        model: the pruned model.
        batches: batches of texts, with labels if there are any.
        dense: answers of the dense model to these batches.
        confidence: probability with which each bound of the fraction holds.

    Raises:
        DataError: there are fewer than 2 texts, or the dense model answers none of them right.
    """
    ours = answers_of(loaded, model, batches)
    parts = [loaded.task.score_answers(*each) for each in zip(ours, dense, batches, strict=True)]
    scores, dense_scores = (torch.cat(side) for side in zip(*((part.ours, part.dense) for part in parts), strict=True))
    if len(scores) < 2:
        raise DataError("keep needs at least 2 texts to compare on; give more data, or a speed-up")
    fraction = kept_fraction(scores, dense_scores, confidence=confidence, nats=parts[0].nats)
    if math.isnan(fraction.value) or not float(dense_scores[:, 0].sum()):
        raise DataError(f"keep compares with the dense model, whose {parts[0].measure} is 0 on {len(scores)} texts")
    return FoundQuality(parts[0].measure, fraction, len(scores))
