"""Precision as the study of Huang et al. (2024) reports it: each class counts by its rows."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import decision_counts, ratio, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("weighted_precision")
@describe(
    "weighted_precision",
    label="Weighted precision",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def weighted_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of TP / (TP + FP) over classes or labels, each weighing as its true rows (labels: known cells), [B].

    As scikit-learn's `precision_score(average="weighted")`: what is never called counts as 0. NaN where no row is
    of any class or label.
    """
    hits, rows, calls = decision_counts(y_true, y_score, weights)
    return ratio((rows * share(hits, calls)).sum(axis=1), rows.sum(axis=1))
