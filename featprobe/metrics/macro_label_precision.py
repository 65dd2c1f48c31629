"""How much of what is called a finding is one, averaged over the labels."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, share
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_label_precision")
@describe("macro_label_precision", label="Macro precision of labels", tasks=("multilabel",), decides=True)
def macro_label_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of TP / (TP + FP) at probabilities above 0.5, [B]; 0 for a label that is never called.

    On the label's known cells; a label counts in a resample in which both its values have weight.
    """
    return labels_mean(_precision, y_true, y_score, weights)


def _precision(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    said = score > 0.5
    rows, rest = weights @ positive.astype(float), weights @ (~positive).astype(float)
    value = share(weights @ (positive & said).astype(float), weights @ said.astype(float))
    return np.where((rows > 0) & (rest > 0), value, np.nan)
