"""The mean F1 of the classes: recall and precision, each class counting the same."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import class_counts, mean_of_defined, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_f1")
@describe("macro_f1", label="Macro F1", decides=True)
def macro_f1(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of 2 TP / (2 TP + FP + FN) over the classes that are true or predicted in the resample, [B].

    As scikit-learn's `f1_score(average="macro")` on the resampled rows.
    """
    hits, rows, calls = class_counts(y_true, y_score, weights)
    return mean_of_defined(ratio(2 * hits, rows + calls))
