"""The mean precision over the recalls: ranking where positives are rare."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, one_versus_rest, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("average_precision")
@describe("average_precision", label="Average precision")
def average_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Average precision of class 1; with more classes the mean of one-versus-rest values, [B]."""
    return one_versus_rest(binary_average_precision, y_true, y_score, weights)


def binary_average_precision(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum of (R_n - R_(n-1)) P_n over the distinct thresholds, as scikit-learn's, [B].

    NaN where the positives or the negatives have no weight (scikit-learn: 0 and 1).
    """
    order = np.argsort(-score, kind="stable")
    ranked = -score[order]
    # Rows of equal score share one threshold: each reads the counts at the last row of its run.
    ends = np.searchsorted(ranked, ranked, side="right") - 1
    hits = np.flatnonzero(positive[order])
    everything = np.cumsum(np.take(weights, order, axis=1), axis=1)
    won = np.take(weights, order[hits], axis=1)
    found = np.zeros((len(weights), len(hits) + 1))
    np.cumsum(won, axis=1, out=found[:, 1:])
    last_hit = np.searchsorted(hits, ends[hits], side="right")
    precision = ratio(np.take(found, last_hit, axis=1), np.take(everything, ends[hits], axis=1))
    total = found[:, -1]
    area = ratio(np.where(won > 0, won * precision, 0.0).sum(axis=1), total)
    rest = weights @ (~positive).astype(float)
    return np.where(rest > 0, area, np.nan)
