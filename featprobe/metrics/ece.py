"""How far confidence lies from accuracy on the average: is a model that says 90 % right nine times in ten?"""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.calibration import equal_width
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("ece")
@describe("ece", label="ECE", higher_is_better=False, needs_classes=False)
def ece(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Expected calibration error of the most probable class, [B], in [0, 1].

    Guo et al. (ICML 2017), eq. 3: rows are put into 15 bins of equal width by the probability of their most probable
    class, bin m holding ((m - 1) / 15, m / 15]; the mean over rows of |accuracy - mean confidence| of the row's bin.
    """
    confidence, said = y_score.max(axis=1), y_score.argmax(axis=1)
    held, off = equal_width(confidence, (said == y_true).astype(float), weights)
    return ratio(np.abs(off).sum(axis=1), held.sum(axis=1))
