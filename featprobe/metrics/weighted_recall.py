"""Recall as the study of Huang et al. (2024) reports it; for classes it is the accuracy."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("weighted_recall")
@describe(
    "weighted_recall",
    label="Weighted recall",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def weighted_recall(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of TP / (TP + FN) over classes or labels, each weighing as its true rows (labels: known cells), [B].

    As scikit-learn's `recall_score(average="weighted")`. The weights cancel the denominators: it is the share of true
    rows that are found, for classes the accuracy. NaN where no row is of any class or label.
    """
    hits, rows, _ = decision_counts(y_true, y_score, weights)
    return ratio(hits.sum(axis=1), rows.sum(axis=1))
