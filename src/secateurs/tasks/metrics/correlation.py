"""Rank correlation between predictions and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from secateurs.tasks.base import Score

__all__ = ["correlation"]


def correlation(predicted: Float[Tensor, " rows"], true: Float[Tensor, " rows"]) -> Score:
    """Spearman's rank correlation (tied values share their mean rank), with Pearson's correlation in the details.

    Args:
        predicted: predictions on any scale.
        true: scores that the predictions should follow.

    Returns:
        The score. Both correlations are 0 if one side is constant.
    """
    x, y = predicted.double().cpu().numpy(), true.double().cpu().numpy()
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # scipy would warn and return NaN
        return Score("spearman", 0.0, higher_is_better=True, count=len(x), details={"pearson": 0.0})
    spearman: Any = spearmanr(x, y)
    pearson: Any = pearsonr(x, y)
    details = {"pearson": float(pearson.statistic)}
    return Score("spearman", float(spearman.statistic), higher_is_better=True, count=len(x), details=details)
