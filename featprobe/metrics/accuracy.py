"""The share of right predictions, the number that readers know; it hides rare classes."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("accuracy")
@describe("accuracy", label="Accuracy", needs_classes=False, proportion=True, decides=True)
def accuracy(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted share of rows whose highest score is the true class (the first one of equals), [B]."""
    right = (y_score.argmax(axis=1) == y_true).astype(float)
    return ratio(weights @ right, weights.sum(axis=1))
