"""How much of each class is found, each class counting the same."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import class_counts, mean_of_defined, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_recall")
@describe("macro_recall", label="Macro recall", proportion=True, decides=True)
def macro_recall(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of TP / (TP + FN) over the classes that are true or predicted in the resample, [B].

    As scikit-learn's `recall_score(average="macro")`: a class that is predicted but true nowhere counts as 0, where
    balanced accuracy leaves it out. With every class among the test rows the two are equal.
    """
    hits, rows, calls = class_counts(y_true, y_score, weights)
    return mean_of_defined(np.where(rows + calls > 0, share(hits, rows), np.nan))
