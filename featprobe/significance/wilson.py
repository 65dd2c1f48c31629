"""The interval of a share of independent rows that holds up near 0 and 1 and with few rows."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from featprobe.records import FloatArray, IntArray
from featprobe.significance.single import need_single_rows


def wilson_interval(right: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of the share right / total of independent rows; NaN where `total` is 0.

    Wilson, JASA 22, 1927; Newcombe, Statistics in Medicine 17, 1998, method 3. Estimand: this fitted model's chance to
    be right on a new row. With all rows right it ends at 1 and starts at n / (n + z^2).
    """
    if not total > 0:
        return float("nan"), float("nan")
    z = float(ndtri((1 + confidence) / 2))
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def wilson_of_rows(right: FloatArray, unit: IntArray, confidence: float = 0.95) -> tuple[float, float]:
    """As `wilson_interval` for rows that are right (1) or wrong (0), [N].

    Raises ConfigError where a group of `unit` int [N] has several rows.
    """
    need_single_rows(
        unit, "Wilson's interval", "type --interval t, which resamples groups (or percentile, or bca)"
    )
    return wilson_interval(float(right.sum()), len(right), confidence)
