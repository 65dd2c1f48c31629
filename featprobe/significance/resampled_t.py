"""Values of folds and seeds share training rows: their spread alone would make an interval far too narrow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from featprobe.records import FloatArray
from featprobe.significance.scales import ZERO, Scale


@dataclass(frozen=True, slots=True)
class Resampled:
    """The mean over J trainings with its interval and two-sided p-value against 0; NaN where J is 1."""

    mean: float
    low: float
    high: float
    p_value: float
    trainings: int


def corrected_resampled_t(
    values: FloatArray, test_share: float, confidence: float = 0.95, scale: Scale | None = None
) -> Resampled:
    """Mean of `values` [J] of J folds and seeds, with variance (1 / J + n_test / n_train) s^2 and J - 1 degrees.

    `test_share`: n_test / n_train. Nadeau & Bengio, Machine Learning 52, 2003, eq. 8; for repeated cross-validation
    Bouckaert & Frank, PAKDD 2004. Estimand: the procedure, trained anew on a sample of this size, on new data: its
    randomness is that of training set, fit and test set together. J = 1 has no spread, and all values equal none that
    can be trusted: then interval and p are NaN.
    """
    count = len(values)
    mean = float(np.mean(values)) if count else float("nan")
    nan = float("nan")
    if count < 2 or not np.isfinite(values).all():
        return Resampled(mean, nan, nan, nan, count)
    error = float(np.sqrt((1 / count + test_share) * np.var(values, ddof=1)))
    if np.ptp(values) <= ZERO * max(1.0, float(np.abs(values).max())):  # equal but for rounding
        return Resampled(mean, nan, nan, nan, count)
    own = Scale(-np.inf, np.inf) if scale is None else scale
    low, high = own.interval(mean, error, count - 1, confidence)
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Resampled(mean, low, high, p, count)
