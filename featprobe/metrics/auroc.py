"""The chance that a positive scores above a negative: ranking, free of any threshold."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, one_versus_rest, ratio
from featprobe.metrics.ranking import by_row, from_top, ranked
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("auroc")
@describe("auroc", label="AUROC")
def auroc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve of class 1; with more classes the mean of one-versus-rest areas, [B]."""
    return one_versus_rest(binary_auroc, y_true, y_score, by_row(weights))


def binary_auroc(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted Mann-Whitney statistic, ties counting one half, [B]; NaN where a side has no weight.

    A negative is beaten by the positives above it: their weight, cumulated over the positives' scores alone, times
    the weight of the negatives that stand between two of them.
    """
    won, lost = ranked(positive, score, weights, halve_ties=True)
    above = from_top(won)
    beaten = np.einsum("ub,ub->b", above, lost[:-1])
    # Sums in another order differ in their last digit: never above 1 by it.
    return np.minimum(ratio(beaten, won.sum(axis=0) * lost.sum(axis=0)), 1.0)
