"""The correlation of decisions with the truth: high only where all cells of the confusion matrix are good."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, class_counts, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS

LEAST = 1e-10
"""Variance (as a share of the squared weight) below which all rows have one class but for rounding."""


@METRICS.register("mcc")
@describe(
    "mcc",
    label="MCC",
    lower=-1.0,
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def mcc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Matthews correlation coefficient of true and most probable class, [B], in [-1, 1].

    For more than two classes R_K of Gorodkin (Computational Biology and Chemistry 28, 2004), as scikit-learn's. 0
    where one class alone is predicted, as scikit-learn has it; NaN where the resample holds one class alone
    (scikit-learn: 0). Labels: the mean of each label's at probabilities above 0.5, on its known cells, over the labels
    that have one.
    """
    if y_true.ndim == 2:
        return labels_mean(_of_label, y_true, y_score, weights)
    return _correlation(*class_counts(y_true, y_score, weights))


def _of_label(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    return _correlation(
        *class_counts(positive.astype(np.int64), np.stack([1 - score, score], axis=1), weights)
    )


def _correlation(hits: FloatArray, rows: FloatArray, calls: FloatArray) -> FloatArray:
    total = rows.sum(axis=1)
    right, true, said = ratio(hits.sum(axis=1), total), _shares(rows, total), _shares(calls, total)
    together = right - (true * said).sum(axis=1)
    varies, changes = (1 - np.square(side).sum(axis=1) for side in (true, said))
    value = np.zeros(len(rows))
    moving = (varies > LEAST) & (changes > LEAST)
    np.divide(
        together, np.sqrt(varies * changes, where=moving, out=np.ones(len(rows))), out=value, where=moving
    )
    return np.where(varies > LEAST, np.clip(value, -1.0, 1.0), np.nan)


def _shares(counts: FloatArray, total: FloatArray) -> FloatArray:
    return ratio(counts, total[:, None])
