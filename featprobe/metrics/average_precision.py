"""The mean precision over the recalls: ranking where positives are rare."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, one_versus_rest, ratio, share
from featprobe.metrics.ranking import by_row, from_top, ranked
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("average_precision")
@describe("average_precision", label="Average precision")
def average_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Average precision of class 1; with more classes the mean of one-versus-rest values, [B]."""
    return one_versus_rest(binary_average_precision, y_true, y_score, by_row(weights))


def binary_average_precision(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum of (R_n - R_(n-1)) P_n over the distinct thresholds, as scikit-learn's, [B].

    NaN where the positives or the negatives have no weight (scikit-learn: 0 and 1).
    """
    won, lost = ranked(positive, score, weights)
    # Thresholds between two positives change no precision that counts.
    found, called = from_top(won), from_top(lost)[1:]
    area = np.einsum("ub,ub->b", won, share(found, found + called))
    total, rest = won.sum(axis=0), lost.sum(axis=0)
    return np.where(rest > 0, np.minimum(ratio(area, total), 1.0), np.nan)
