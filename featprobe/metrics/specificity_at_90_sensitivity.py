"""How many of the healthy are spared where 90 % of the ill are found: a test to rule out."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.operating import at_sensitivity
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("specificity_at_90_sensitivity")
@describe(
    "specificity_at_90_sensitivity",
    label="Specificity at 90 % sensitivity",
    tasks=("classes", "ordinal", "multilabel"),
)
def specificity_at_90_sensitivity(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """The largest specificity of a threshold whose sensitivity is at least 0.90, [B]; see `at_sensitivity`."""
    return at_sensitivity(0.90, y_true, y_score, weights)
