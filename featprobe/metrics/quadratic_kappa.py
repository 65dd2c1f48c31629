"""Agreement beyond chance on ordered classes, where a miss by two grades counts four times one by one."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS

LEAST = 1e-10
"""Expected disagreement below which all rows have one class but for rounding."""


@METRICS.register("quadratic_kappa")
@describe(
    "quadratic_kappa",
    label="Quadratic weighted kappa",
    lower=-1.0,
    needs_classes=False,
    tasks=("ordinal",),
    decides=True,
)
def quadratic_kappa(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Cohen's kappa with weights (i - j)^2 between true and most probable class, [B], in [-1, 1].

    Cohen, Psychological Bulletin 70 (1968). As the disagreement expected by chance is the mean of (i - j)^2
    under independence, E i^2 + E j^2 - 2 E i E j, no table of classes is needed. NaN where it is 0: the
    resample holds one class, and it alone is predicted.
    """
    said = y_score.argmax(axis=1)
    columns = np.stack([np.square(y_true - said), np.square(y_true) + np.square(said), y_true, said], axis=1)
    means = ratio(weights @ columns.astype(float), weights.sum(axis=1)[:, None])
    observed, squares, true, predicted = means.T
    expected = squares - 2 * true * predicted
    return 1 - ratio(observed, np.where(expected > LEAST, expected, 0.0))
