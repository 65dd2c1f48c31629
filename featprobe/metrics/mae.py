"""The mean absolute error of a number, in the unit of the target."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray
from featprobe.registry import METRICS


@METRICS.register("mae")
@describe(
    "mae",
    label="MAE",
    higher_is_better=False,
    upper=np.inf,
    needs_classes=False,
    tasks=("continuous",),
)
def mae(y_true: FloatArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of |true - predicted|, [B], in [0, inf)."""
    return ratio(weights @ np.abs(y_true - y_score[:, 0]), weights.sum(axis=1))
