"""The squared error of each label's probability, averaged: judges calibration too."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_brier")
@describe(
    "macro_brier",
    label="Macro Brier score",
    higher_is_better=False,
    needs_classes=False,
    tasks=("multilabel",),
)
def macro_brier(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of the weighted mean of (p - y)^2 over the label's known cells, [B], in [0, 1]."""
    return labels_mean(_brier, y_true, y_score, weights)


def _brier(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    return ratio(weights @ np.square(score - positive), weights.sum(axis=1))
