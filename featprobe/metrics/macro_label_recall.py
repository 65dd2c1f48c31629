"""How much of each finding is found, averaged over the labels."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_label_recall")
@describe("macro_label_recall", label="Macro recall of labels", tasks=("multilabel",), decides=True)
def macro_label_recall(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of TP / (TP + FN) at probabilities above 0.5, [B].

    On the label's known cells; a label counts in a resample in which both its values have weight.
    """
    return labels_mean(_recall, y_true, y_score, weights)


def _recall(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    rows, rest = weights @ positive.astype(float), weights @ (~positive).astype(float)
    value = ratio(weights @ (positive & (score > 0.5)).astype(float), rows)
    return np.where(rest > 0, value, np.nan)
