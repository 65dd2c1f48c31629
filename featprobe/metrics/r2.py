"""The share of the target's variance that is explained: free of the unit, 0 for always saying the mean."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray
from featprobe.registry import METRICS

LEAST = 1e-12
"""Share of the weighted squares below which what is left of them after centring is rounding."""


@METRICS.register("r2")
@describe("r2", label="R²", lower=-np.inf, needs_classes=False, tasks=("continuous",))
def r2(y_true: FloatArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """1 - sum (true - predicted)^2 / sum (true - mean of the resample)^2, [B], in (-inf, 1].

    NaN where all true values of the resample are the same (scikit-learn: 0 or 1).
    """
    centred = y_true - y_true.mean()
    squares, total = weights @ np.square(centred), weights.sum(axis=1)
    spread = squares - ratio(np.square(weights @ centred), total)
    left = weights @ np.square(y_true - y_score[:, 0])
    return 1 - ratio(left, np.where(spread > LEAST * squares, spread, 0.0))
