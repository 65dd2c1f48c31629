"""F1 over all decisions together; for classes it is the accuracy."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("micro_f1")
@describe(
    "micro_f1",
    label="Micro F1",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def micro_f1(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """2 TP / (2 TP + FP + FN) of the sums over all classes or labels, [B], as scikit-learn's `average="micro"`.

    Labels on their known cells. NaN where no row is of any class or label.
    """
    hits, rows, calls = (count.sum(axis=1) for count in decision_counts(y_true, y_score, weights))
    return np.where(rows > 0, share(2 * hits, rows + calls), np.nan)
