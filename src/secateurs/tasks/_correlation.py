"""How well predictions rank what people scored."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from secateurs.tasks import Score

__all__ = ["correlation"]


def correlation(predicted: Float[Tensor, " rows"], true: Float[Tensor, " rows"]) -> Score:
    """Spearman's correlation (Pearson's of the ranks, ties at their mean), with Pearson's own in the details.

    Args:
        predicted: numbers of any scale.
        true: the scores they should follow.

    Returns:
        0 where one side is constant: it ranks nothing.
    """
    x, y = predicted.double().cpu().numpy(), true.double().cpu().numpy()
    spearman = _pearson(rankdata(x), rankdata(y))
    return Score("spearman", spearman, higher_is_better=True, count=len(x), details={"pearson": _pearson(x, y)})


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
