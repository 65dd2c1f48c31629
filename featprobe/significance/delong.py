"""The area under the ROC curve in closed form: its variance, and that of differences, without any resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.significance.freedom import satterthwaite
from featprobe.significance.single import need_single_rows


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Areas of S systems [S] and their covariance [S, S], a sum of `components` [S, S] with degrees of freedom each."""

    value: FloatArray
    components: tuple[tuple[FloatArray, int], ...]

    @property
    def covariance(self) -> FloatArray:
        """Of the areas, [S, S]."""
        return np.asarray(np.sum([own for own, _ in self.components], axis=0))

    def variance(self, contrast: FloatArray) -> tuple[float, float]:
        """(variance of a sum of areas with weights `contrast` [S], its degrees of freedom)."""
        parts = [float(contrast @ own @ contrast) for own, _ in self.components]
        return float(sum(parts)), satterthwaite(parts, [freedom for _, freedom in self.components])


def placements(positive: AnyArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(share of negatives below each positive [S, m], share of positives above each negative [S, n]); ties count half.

    `positive` bool [N], `scores` float64 [S, N]. By mid-ranks, in O(N log N): Sun & Xu, IEEE Signal Processing Letters
    21, 2014, eqs. 5 to 10. DeLong's V10 and V01, whose means are both the area. Rows keep their order.
    """
    above, below = scores[:, positive], scores[:, ~positive]
    m, n = above.shape[1], below.shape[1]
    together = stats.rankdata(np.concatenate([above, below], axis=1), axis=1)
    v10 = (together[:, :m] - stats.rankdata(above, axis=1)) / n
    v01 = 1 - (together[:, m:] - stats.rankdata(below, axis=1)) / m
    return v10, v01


def delong(positive: AnyArray, scores: FloatArray, unit: IntArray | None = None) -> Areas:
    """Areas of S systems on the same independent rows, with their covariance.

    `positive` bool [N], `scores` float64 [S, N]; `unit` int [N], the group of each row. DeLong, DeLong &
    Clarke-Pearson, Biometrics 44, 1988. Estimand: the chance that this fitted model ranks a new positive above a new
    negative. NaN where a class is missing, NaN covariance where it has one row. Raises ConfigError where a group has
    several rows: `clustered_delong` is the form for these.
    """
    if unit is not None:
        need_single_rows(
            unit, "DeLong's unclustered form", "use clustered_delong (--interval delong and --test delong do)"
        )
    count, m = len(scores), int(positive.sum())
    n = len(positive) - m
    if not m or not n:
        return _none(count)
    v10, v01 = placements(positive, scores)
    value = v10.mean(axis=1)
    if min(m, n) < 2:
        return Areas(value, ((np.full((count, count), np.nan), 1),))
    return Areas(value, ((np.atleast_2d(np.cov(v10)) / m, m - 1), (np.atleast_2d(np.cov(v01)) / n, n - 1)))


def clustered_delong(positive: AnyArray, scores: FloatArray, unit: IntArray) -> Areas:
    """Areas of S systems on rows in groups, with their covariance over groups.

    `positive` bool [N], `scores` float64 [S, N], `unit` int [N], any numbers. Obuchowski, Biometrics 53, 1997, section 3,
    on mid-ranks; with one row per group equal to `delong`. Estimand: the chance that this fitted model ranks a
    positive row above a negative one, both from new groups. NaN where a class is missing, NaN covariance where it
    stands in one group.
    """
    count, m = len(scores), int(positive.sum())
    n = len(positive) - m
    if not m or not n:
        return _none(count)
    v10, v01 = placements(positive, scores)
    value = v10.mean(axis=1)
    unit = np.unique(unit, return_inverse=True)[1].reshape(-1)
    groups = int(unit.max()) + 1
    with_positive = len(np.unique(unit[positive]))
    with_negative = len(np.unique(unit[~positive]))
    if min(with_positive, with_negative) < 2:
        return Areas(value, ((np.full((count, count), np.nan), 1),))
    x = group_sums(v10 - value[:, None], unit[positive], groups) / m
    y = group_sums(v01 - value[:, None], unit[~positive], groups) / n
    return Areas(
        value,
        (
            (with_positive / (with_positive - 1) * (x @ x.T), with_positive - 1),
            (with_negative / (with_negative - 1) * (y @ y.T), with_negative - 1),
            (groups / (groups - 1) * (x @ y.T + y @ x.T), groups - 1),
        ),
    )


def contributions(positive: AnyArray, scores: FloatArray, unit: IntArray) -> FloatArray:
    """What each group adds to the area beyond its mean (its influence), [S, G]; sums to 0 for every system.

    As the sums in `clustered_delong`. NaN where a class is missing.
    """
    groups, m = int(unit.max(initial=-1)) + 1, int(positive.sum())
    n = len(positive) - m
    if not m or not n:
        return np.full((len(scores), groups), np.nan)
    v10, v01 = placements(positive, scores)
    value = v10.mean(axis=1, keepdims=True)
    above = group_sums(v10 - value, unit[positive], groups) / m
    return above + group_sums(v01 - value, unit[~positive], groups) / n


def group_sums(values: FloatArray, unit: IntArray, groups: int) -> FloatArray:
    """Sums of `values` [S, M] over the rows of each group, [S, G]."""
    return np.stack([np.bincount(unit, weights=row, minlength=groups) for row in values])


def perfect_floor(positive: AnyArray, unit: IntArray, confidence: float = 0.95) -> float:
    """Lower confidence bound of an area that is 1 on these rows; NaN where groups hold both classes.

    Of m positive and n negative groups, min(m, n) disjoint pairs (one row each) are independent, and each is in order
    with the chance of the area: all are with the area^min(m, n), so that an area below (alpha / 2)^(1 / min(m, n))
    would have shown perfect separation with a chance below alpha / 2. Conservative, for groups of one row each exact in
    its level.
    """
    above, below = np.unique(unit[positive]), np.unique(unit[~positive])
    if np.intersect1d(above, below).size or not min(len(above), len(below)):
        return float("nan")
    return float(((1 - confidence) / 2) ** (1 / min(len(above), len(below))))


def difference_test(areas: Areas, i: int, j: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """(low, high, two-sided p) of area i less area j; NaN where the difference has no variance.

    DeLong's paired test; with `clustered_delong` Obuchowski's. By t with Satterthwaite's degrees of freedom in place of
    the normal law, which finds too much where a class is rare; with many rows of both classes the two are one.
    """
    contrast = np.zeros(len(areas.value))
    contrast[i] += 1.0
    contrast[j] -= 1.0
    gap = float(contrast @ areas.value)
    variance, freedom = areas.variance(contrast)
    if not variance > 0:
        return float("nan"), float("nan"), float("nan")
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return gap - half, gap + half, 2 * float(stats.t.sf(abs(gap) / error, freedom))


def mean_area(parts: Sequence[Areas]) -> Areas:
    """Areas averaged over independent folds: covariances add, over the square of their number."""
    value = np.mean([part.value for part in parts], axis=0)
    scaled = [(own / len(parts) ** 2, freedom) for part in parts for own, freedom in part.components]
    return Areas(value, tuple(scaled))


def _none(count: int) -> Areas:
    return Areas(np.full(count, np.nan), ((np.full((count, count), np.nan), 1),))
