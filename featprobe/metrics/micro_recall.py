"""The share of all findings that are found; for classes it is the accuracy."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("micro_recall")
@describe(
    "micro_recall",
    label="Micro recall",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def micro_recall(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum of TP over that of TP + FN, over all classes or labels, [B], as scikit-learn's `average="micro"`.

    Labels on their known cells. NaN where no row is of any class or label.
    """
    hits, rows, _ = (count.sum(axis=1) for count in decision_counts(y_true, y_score, weights))
    return ratio(hits, rows)
