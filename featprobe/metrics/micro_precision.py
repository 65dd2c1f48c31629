"""Precision over all decisions together; for classes it is the accuracy."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("micro_precision")
@describe(
    "micro_precision",
    label="Micro precision",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def micro_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum of TP over that of TP + FP, over all classes or labels, [B], as scikit-learn's `average="micro"`.

    Labels on their known cells; 0 where nothing is called. NaN where no row is of any class or label. For classes, of
    which each row has one and gets one, micro precision, recall and F1 are all the accuracy.
    """
    hits, rows, calls = (count.sum(axis=1) for count in decision_counts(y_true, y_score, weights))
    return np.where(rows > 0, share(hits, calls), np.nan)
