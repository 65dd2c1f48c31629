"""The accuracy of MedMNIST's evaluator, for tables that stand beside its published ones."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("medmnist_acc")
@describe(
    "medmnist_acc",
    label="MedMNIST accuracy",
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def medmnist_acc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Share of right decisions, [B]: MedMNIST's `getACC` (Yang et al., Scientific Data 10, 2023).

    Two classes: class 1 is called above 0.5; more, and grades: the largest score (the first of equals); labels: each
    is called above 0.5, and the shares of right cells are averaged over the labels (on the known cells; a label
    without any counts nowhere).
    """
    if y_true.ndim == 2:
        return labels_mean(_right, y_true, y_score, weights)
    if y_score.shape[1] == 2:
        return _right(y_true == 1, y_score[:, 1], weights)
    said = y_score.argmax(axis=1)
    return ratio(weights @ (said == y_true).astype(float), weights.sum(axis=1))


def _right(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    return ratio(weights @ (positive == (score > 0.5)).astype(float), weights.sum(axis=1))
