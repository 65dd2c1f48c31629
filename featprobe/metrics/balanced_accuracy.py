"""The mean recall of the classes: accuracy that a frequent class can't carry alone."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import class_counts, mean_of_defined, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("balanced_accuracy")
@describe("balanced_accuracy", label="Balanced accuracy", proportion=True, decides=True)
def balanced_accuracy(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the classes with weight of the weighted recall, [B], as scikit-learn's."""
    hits, rows, _ = class_counts(y_true, y_score, weights)
    return mean_of_defined(ratio(hits, rows))
