"""The F1 of each label at 0.5, averaged: precision and recall of the findings that are called."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_label_f1")
@describe("macro_label_f1", label="Macro F1 of labels", tasks=("multilabel",), decides=True)
def macro_label_f1(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of 2 TP / (2 TP + FP + FN) at probabilities above 0.5, [B].

    On the label's known cells; a label counts in a resample in which both its values have weight.
    """
    return labels_mean(_f1, y_true, y_score, weights)


def _f1(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    said = score > 0.5
    hits = weights @ (positive & said).astype(float)
    rows = weights @ positive.astype(float)
    rest = weights @ (~positive).astype(float)
    value = ratio(2 * hits, rows + weights @ said.astype(float))
    return np.where((rows > 0) & (rest > 0), value, np.nan)
