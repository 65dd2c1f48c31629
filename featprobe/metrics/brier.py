"""The squared error of the probabilities: the one metric here that judges calibration too."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("brier")
@describe(
    "brier", label="Brier score", higher_is_better=False, upper=2.0, upper_binary=1.0, needs_classes=False
)
def brier(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of (p1 - y)^2 for two classes, of the sum over classes for more, [B].

    Brier, Monthly Weather Review 78 (1950); the halving for two classes only is scikit-learn's convention
    (`brier_score_loss`, scale_by_half="auto"). Lies in [0, 1] for two classes, in [0, 2] for more.
    """
    if y_score.shape[1] == 2:
        loss = np.square(y_score[:, 1] - y_true)
    else:
        loss = np.square(y_score - np.eye(y_score.shape[1])[y_true]).sum(axis=1)
    return ratio(weights @ loss, weights.sum(axis=1))
