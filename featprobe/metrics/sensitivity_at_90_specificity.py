"""How many of the ill are found where 90 % of the healthy are spared: a test to rule in."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.operating import at_specificity
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("sensitivity_at_90_specificity")
@describe(
    "sensitivity_at_90_specificity",
    label="Sensitivity at 90 % specificity",
    tasks=("classes", "ordinal", "multilabel"),
)
def sensitivity_at_90_specificity(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """The largest sensitivity of a threshold whose specificity is at least 0.90, [B]; see `at_specificity`."""
    return at_specificity(0.90, y_true, y_score, weights)
