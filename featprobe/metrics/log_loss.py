"""The mean surprise at the truth: the loss that probes are fitted by, merciless to confident errors."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS

LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1, as scikit-learn's, so that one wrong 0 is not infinitely bad."""


@METRICS.register("log_loss")
@describe(
    "log_loss",
    label="Log loss",
    higher_is_better=False,
    upper=-float(np.log(LEAST)),
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
)
def log_loss(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of -log(probability of the true class), natural logarithm, [B], in [0, 36.04].

    Labels: the mean over the labels of the binary log loss on the label's known cells.
    """
    if y_true.ndim == 2:
        return labels_mean(_of_label, y_true, y_score, weights)
    return _mean(y_score[np.arange(len(y_true)), y_true], weights)


def _of_label(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    return _mean(np.where(positive, score, 1 - score), weights)


def _mean(given: FloatArray, weights: FloatArray) -> FloatArray:
    """`given`: the probability that was given to what was true, [n]."""
    return ratio(weights @ -np.log(np.clip(given, LEAST, 1.0)), weights.sum(axis=1))
