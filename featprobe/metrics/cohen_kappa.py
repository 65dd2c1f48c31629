"""Agreement of decisions with the truth beyond chance, which a frequent class gives for nothing."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import BoolArray, class_counts, labels_mean, ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS

LEAST = 1e-10
"""Expected disagreement below which all rows have one class but for rounding."""


@METRICS.register("cohen_kappa")
@describe(
    "cohen_kappa",
    label="Cohen's kappa",
    lower=-1.0,
    needs_classes=False,
    tasks=("classes", "ordinal", "multilabel"),
    decides=True,
)
def cohen_kappa(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Unweighted kappa between true and most probable class, [B], in [-1, 1], as scikit-learn's.

    Cohen, Educational and Psychological Measurement 20 (1960). NaN where the resample holds one class and it alone is
    predicted. Labels: the mean of each label's kappa at probabilities above 0.5, on its known cells, over the labels
    that have one.
    """
    if y_true.ndim == 2:
        return labels_mean(_of_label, y_true, y_score, weights)
    return _kappa(*class_counts(y_true, y_score, weights))


def _of_label(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    return _kappa(*class_counts(positive.astype(np.int64), np.stack([1 - score, score], axis=1), weights))


def _kappa(hits: FloatArray, rows: FloatArray, calls: FloatArray) -> FloatArray:
    total = rows.sum(axis=1)
    disagreed = 1 - ratio(hits.sum(axis=1), total)
    expected = 1 - ratio((rows * calls).sum(axis=1), np.square(total))
    return 1 - ratio(disagreed, np.where(expected > LEAST, expected, 0.0))
