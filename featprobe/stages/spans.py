"""Intervals of what is resampled outside `featprobe.significance`: on the same scales, with the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe.records import FloatArray, IntArray
from featprobe.significance.scales import ZERO, Scale

LEVEL: Final = 0.95
LOST: Final = 0.05
"""Share of resamples that may be without a value."""

NOTHING: Final = (float("nan"), float("nan"))


def resampled_span(
    value: float, draws: FloatArray, freedom: int, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Interval of `value` from resampled values `draws` [B]: t on the scale of its bounds; NaN where there is none."""
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or freedom < 1 or len(known) < (1 - LOST) * len(draws):
        return NOTHING
    if np.ptp(known) < ZERO:
        return NOTHING
    return Scale(*bounds).interval(value, float(known.std(ddof=1)), freedom, LEVEL)


def share_span(value: float, draws: FloatArray, groups: int) -> tuple[float, float]:
    """`resampled_span` of a share; where all of `groups` say the same, the exact bound of Clopper and Pearson."""
    if groups > 1 and (abs(value) < ZERO or abs(value - 1) < ZERO):
        floor = float(((1 - LEVEL) / 2) ** (1 / groups))
        return (floor, 1.0) if value > 0.5 else (0.0, 1 - floor)
    return resampled_span(value, draws, groups - 1)


def mean_span(
    values: Sequence[FloatArray], *, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float, float]:
    """(mean over folds of the means over groups, low, high); `values`: of each fold, one for each group.

    t on the scale of the bounds; where all are at a bound of [0, 1], the exact bound of Clopper and Pearson for the
    smallest fold. NaN where there is no interval.
    """
    kept = [own for own in values if len(own)]
    if not kept:
        return (float("nan"), *NOTHING)
    value = float(np.mean([own.mean() for own in kept]))
    sizes = np.array([len(own) for own in kept])
    freedom = int(sizes.sum() - len(kept))
    if bounds == (0.0, 1.0) and (abs(value) < ZERO or abs(value - 1) < ZERO):
        floor = float(((1 - LEVEL) / 2) ** (1 / (len(sizes) * int(sizes.min()))))
        return (value, floor, 1.0) if value > 0.5 else (value, 0.0, 1 - floor)
    if freedom < 1 or sizes.min() < 2:
        return (value, *NOTHING)
    error = float(np.sqrt(sum(own.var(ddof=1) / len(own) for own in kept))) / len(kept)
    if error < ZERO:
        return (value, *NOTHING)
    return (value, *Scale(*bounds).interval(value, error, freedom, LEVEL))


def group_means(values: FloatArray, unit: IntArray) -> FloatArray:
    """Mean of `values` [N] over the rows of each group `unit` [N], [G]."""
    codes, sizes = np.unique(unit, return_inverse=True, return_counts=True)[1:]
    return np.asarray(np.bincount(codes.reshape(-1), values) / sizes)
