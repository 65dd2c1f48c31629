"""How many groups would tell two systems apart: what a difference that was not shown would have taken."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import ndtri

MOST: Final = 10_000_000
"""More groups than this are no plan: the difference is none for practical ends."""


def groups_needed(
    difference: float, variance: float, groups: int, *, power: float = 0.8, level: float = 0.05
) -> float:
    """Groups that show `difference` in a two-sided test at `level` with chance `power`, rounded up; at least 2.

    `variance`: of the difference as observed on `groups` groups (of its resamples): a group adds groups * variance, so
    that n = (z_(1 - level / 2) + z_power)^2 * groups * variance / difference^2. A single pair is meant, without
    adjustment for others, and the observed difference is taken for the true one: it is a guide for the next study, and
    says nothing about this one (Hoenig & Heisey, American Statistician 55, 2001). Infinite where the difference is 0
    or needs more than MOST; NaN where nothing is known of the variance.
    """
    if not variance > 0 or not math.isfinite(difference) or groups < 2:
        return float("nan")
    if difference == 0:
        return float("inf")
    z = float(ndtri(1 - level / 2) + ndtri(power))
    needed = math.ceil(max(2.0, z * z * groups * variance / difference**2)) if difference**2 else np.inf
    return float(needed) if needed <= MOST else float("inf")
