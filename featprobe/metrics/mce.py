"""How far confidence lies from accuracy in the worst bin: what a user of rare confident answers meets."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.calibration import equal_width
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("mce")
@describe("mce", label="MCE", higher_is_better=False, needs_classes=False)
def mce(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Maximum calibration error of the most probable class, [B], in [0, 1].

    Guo et al. (ICML 2017), eq. 5: the largest |accuracy - mean confidence| of the bins of `ece` that hold a row. A bin
    of one row counts like any other, so it is noisy in small test sets.
    """
    confidence, said = y_score.max(axis=1), y_score.argmax(axis=1)
    held, off = equal_width(confidence, (said == y_true).astype(float), weights)
    worst = np.nan_to_num(ratio(np.abs(off), held)).max(axis=1)
    return np.where(held.sum(axis=1) > 0, worst, np.nan)
