"""By how many classes the prediction misses on the average: the error of a grading in its own unit."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


def farthest(n_classes: int) -> float:
    """The largest possible miss."""
    return n_classes - 1.0


@METRICS.register("ordinal_mae")
@describe(
    "ordinal_mae",
    label="MAE in classes",
    higher_is_better=False,
    upper=farthest,
    needs_classes=False,
    tasks=("ordinal",),
    decides=True,
)
def ordinal_mae(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of |true - most probable class| in steps of the order, [B], in [0, C - 1]."""
    miss = np.abs(y_score.argmax(axis=1) - y_true).astype(float)
    return ratio(weights @ miss, weights.sum(axis=1))
