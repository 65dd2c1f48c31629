"""The bootstrap's interval with its bias and its skewness put right, by a jackknife that leaves out whole groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from featprobe.records import FloatArray, IntArray
from featprobe.significance.bootstrap import CHUNK, HeldOut, Metric

MOST: Final = 2000
"""Groups that are left out in turn, per fold; of more, so many are drawn, and the skewness is estimated from them."""


def bca_interval(
    value: float, draws: FloatArray, skew: float, confidence: float = 0.95
) -> tuple[float, float]:
    """(low, high) of the bias-corrected and accelerated bootstrap; NaN where it does not exist.

    `draws` [B]: resampled values; `skew`: see `acceleration`. Estimand: the metric of this fitted model on new groups.
    Efron, JASA 82, 1987; Efron & Tibshirani, 1993, section 14.3; equal to `scipy.stats.bootstrap(method="BCa")` on the
    same draws. It does not exist where every draw lies on one side of `value`, or where no group moves the value.
    """
    bias = ndtri(((draws < value).mean() + (draws <= value).mean()) / 2) if len(draws) else np.nan
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    shifted = bias + ndtri(tails)
    with np.errstate(invalid="ignore"):
        levels = ndtr(bias + shifted / (1 - skew * shifted))
    if not np.isfinite(levels).all() or not np.isfinite(bias):
        return float("nan"), float("nan")
    low, high = np.percentile(draws, 100 * levels)
    return float(low), float(high)


def acceleration(left_out: Sequence[tuple[FloatArray, int]]) -> float:
    """The acceleration from jackknife values, a third moment over a second one; NaN where nothing varies.

    `left_out`: per independent sample (fold or stratum) the value [n] without each of its groups in turn, and how many
    groups it has: where only n of them were left out, its sums are scaled up. Several samples as in
    `scipy.stats.bootstrap`.
    """
    cubes = squares = 0.0
    for values, size in left_out:
        if size < 2:
            continue
        influence = (size - 1) * (values.mean() - values)
        share = size / len(values)
        cubes += share * float((influence**3).sum()) / size**3
        squares += share * float((influence**2).sum()) / size**2
    return cubes / (6 * squares**1.5) if squares > 0 else float("nan")


def jackknife(
    part: HeldOut, metric: Metric, score: FloatArray, *, seed: int = 0, most: int = MOST
) -> list[tuple[FloatArray, int]]:
    """(value without each group [n], groups of the stratum) for each stratum of the metric's design.

    `score` float64 [N, C] in the order of `part.samples`. Where there are more than `most` groups, so many are drawn
    by `seed`. A value that is undefined without a group is left out.
    """
    design = part.design(metric)
    chosen = np.arange(len(design.stratum))
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    values = without_each(part, metric, score, chosen)
    found = []
    for stratum in np.unique(design.stratum):
        own = values[design.stratum[chosen] == stratum]
        own = own[np.isfinite(own)]
        if len(own):
            found.append((own, int((design.stratum == stratum).sum())))
    return found


def without_each(part: HeldOut, metric: Metric, score: FloatArray, chosen: IntArray) -> FloatArray:
    """The metric without each of the groups `chosen` int [n], [n]."""
    unit = part.plain.unit
    return np.concatenate([metric(part.samples.label, score, w) for w in _without(unit, chosen)])


def _without(unit: IntArray, chosen: IntArray) -> Iterator[FloatArray]:
    """Weights of the rows, [b, N] at a time: 0 for the rows of the group left out, else 1."""
    step = max(1, CHUNK // max(1, len(unit)))
    for start in range(0, len(chosen), step):
        yield (unit[None, :] != chosen[start : start + step, None]).astype(np.float64)
