"""Agreement of numbers in their own unit: correlation that a wrong mean or a wrong scale lowers."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray
from featprobe.registry import METRICS

LEAST = 1e-12
"""Share of the squares below which what is left of them after centring is rounding."""


@METRICS.register("ccc")
@describe("ccc", label="Lin's concordance", lower=-1.0, needs_classes=False, tasks=("continuous",))
def ccc(y_true: FloatArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Lin's concordance correlation coefficient of true and predicted values, [B], in [-1, 1].

    2 cov / (var + var + (mean - mean)^2) with moments over n, not n - 1: Lin, Biometrics 45 (1989), 255-268. 0 where
    one of them has one value only and they disagree; NaN where both have the same single value.
    """
    centre = y_true.mean()
    a, b = y_true - centre, y_score[:, 0] - centre
    columns = np.stack([a, b, np.square(a), np.square(b), a * b], axis=1)
    mean_a, mean_b, square_a, square_b, product = ratio(weights @ columns, weights.sum(axis=1)[:, None]).T
    covariance = product - mean_a * mean_b
    # var + var + (mean - mean)^2 = E a^2 + E b^2 - 2 mean mean.
    spread = square_a + square_b - 2 * mean_a * mean_b
    return np.clip(
        ratio(2 * covariance, np.where(spread > LEAST * (square_a + square_b), spread, 0.0)), -1.0, 1.0
    )
