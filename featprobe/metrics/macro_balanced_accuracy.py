"""Sensitivity and specificity of each label at 0.5, averaged: what calling every finding absent can't earn."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_balanced_accuracy")
@describe("macro_balanced_accuracy", label="Macro balanced accuracy", tasks=("multilabel",), decides=True)
def macro_balanced_accuracy(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of (sensitivity + specificity) / 2 at probabilities above 0.5, [B].

    On the label's known cells; a label counts in a resample in which both its values have weight.
    """
    return labels_mean(_balanced, y_true, y_score, weights)


def _balanced(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    said = score > 0.5
    found = ratio(weights @ (positive & said).astype(float), weights @ positive.astype(float))
    spared = ratio(weights @ (~positive & ~said).astype(float), weights @ (~positive).astype(float))
    return (found + spared) / 2
