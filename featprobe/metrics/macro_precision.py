"""How much of what is called a class is of that class, each class counting the same."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import class_counts, mean_of_defined, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_precision")
@describe("macro_precision", label="Macro precision", decides=True)
def macro_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of TP / (TP + FP) over the classes that are true or predicted in the resample, [B].

    A class that is never predicted counts as 0, as scikit-learn's `precision_score(average="macro")` has it.
    """
    hits, rows, calls = class_counts(y_true, y_score, weights)
    return mean_of_defined(np.where(rows + calls > 0, share(hits, calls), np.nan))
