"""The bootstrap's plainest interval: where the middle of the resampled values lies."""

from __future__ import annotations

import numpy as np

from featprobe.records import FloatArray


def percentile_interval(draws: FloatArray, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high): the (1 - confidence) / 2 quantiles of `draws` [B], linearly interpolated.

    Estimand: the metric of this fitted model on new groups. Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, eq. 13.5; equal to `scipy.stats.bootstrap(method="percentile")` on the same draws. It never leaves the
    metric's range, but is too narrow with few groups. NaN where `draws` is empty or holds NaN.
    """
    if not len(draws):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
