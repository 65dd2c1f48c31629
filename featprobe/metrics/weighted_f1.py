"""F1 as the study of Huang et al. (2024) reports it: each class counts by its rows."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, ratio, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("weighted_f1")
@describe(
    "weighted_f1",
    label="Weighted F1",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def weighted_f1(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of 2 TP / (2 TP + FP + FN) over classes or labels, each weighing as its true rows, [B].

    As scikit-learn's `f1_score(average="weighted")`; labels on their known cells. NaN where no row is of any class or
    label.
    """
    hits, rows, calls = decision_counts(y_true, y_score, weights)
    return ratio((rows * share(2 * hits, rows + calls)).sum(axis=1), rows.sum(axis=1))
