"""The chance that a positive scores above a negative: ranking, free of any threshold."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, one_versus_rest, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("auroc")
@describe("auroc", label="AUROC")
def auroc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve of class 1; with more classes the mean of one-versus-rest areas, [B]."""
    return one_versus_rest(binary_auroc, y_true, y_score, weights)


def binary_auroc(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted Mann-Whitney statistic, ties counting one half, [B]; NaN where a side has no weight.

    Sorted once for all resamples: the weight of negatives below each positive is read off a cumulated sum.
    """
    positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below = np.searchsorted(score[negatives], score[positives], side="left")
    up_to = np.searchsorted(score[negatives], score[positives], side="right")
    cumulated = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(np.take(weights, negatives, axis=1), axis=1, out=cumulated[:, 1:])
    beaten = np.take(cumulated, below, axis=1)
    if not np.array_equal(below, up_to):
        beaten = (beaten + np.take(cumulated, up_to, axis=1)) / 2
    won = np.take(weights, positives, axis=1)
    total = won.sum(axis=1) * cumulated[:, -1]
    return ratio(np.einsum("bp,bp->b", won, beaten), total)
