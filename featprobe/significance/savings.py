"""How many labels one system saves over another: the ratio of what both need for the same value of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from featprobe.records import FloatArray
from featprobe.significance.scales import ZERO

OPEN: Final = 0.5
"""Share of resamples without an answer from which on there is no interval at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A metric against the labels learnt from, of one system.

    `labels` float64 [A], ascending, above 0. `values` float64 [A, R] for R seeds (draws of the labels). `draws` float64
    [A, R, B]: the same in B resamples of the test groups, which all curves that are compared share.
    """

    labels: FloatArray
    values: FloatArray
    draws: FloatArray


@dataclass(frozen=True, slots=True)
class Saving:
    """What `other` needs for each label of `own` to reach `level` of the metric; `ratio` above 1: own saves labels.

    `needed_own`, `needed_other`: labels at which the curves reach the level. `low` may be 0 and `high` infinite: that
    end lies beyond the amounts that were tried. NaN where undefined, and `method` says why.
    """

    level: float
    needed_own: float
    needed_other: float
    ratio: float
    low: float
    high: float
    method: str


def monotone(values: FloatArray) -> FloatArray:
    """The non-decreasing rows that are nearest to `values` [..., A] in least squares.

    By the max-min formula, max over j <= i of min over k >= i of the mean of j..k (Robertson, Wright & Dykstra, Order
    Restricted Statistical Inference, 1988, section 1.4), which works on all resamples at once.
    """
    count = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(axis=-1)], axis=-1)
    j, k = np.arange(count)[:, None], np.arange(count)[None, :]
    length = np.where(k >= j, k - j + 1, 1)
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / length
    means = np.where(k >= j, means, np.inf)
    least = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(np.where(k >= j, least, -np.inf).max(axis=-2))


def needed(labels: FloatArray, fitted: FloatArray, level: float) -> FloatArray:
    """The logarithm of the labels at which monotone curves `fitted` [B, A] reach `level`, [B].

    Straight lines between the amounts on the logarithm of the labels. -inf where a curve lies above the level from the
    first amount on, inf where it never reaches it.
    """
    logs = np.log(labels)
    reached = fitted >= level
    place = reached.argmax(axis=1)
    rows = np.arange(len(fitted))
    before = np.maximum(place - 1, 0)
    low, high = fitted[rows, before], fitted[rows, place]
    step = np.where(high > low, high - low, 1.0)
    found = logs[before] + (level - low) / step * (logs[place] - logs[before])
    found = np.where((place == 0) & (fitted[:, 0] > level), -np.inf, found)
    return np.asarray(np.where(reached.any(axis=1), found, np.inf))


def seed_weights(seeds: int, resamples: int, seed: int) -> FloatArray:
    """What each of R seeds weighs in each resample, float64 [B, R], rows sum to 1.

    R - 1 of them are drawn with replacement, so that the variance of a mean over few seeds is unbiased (Rao & Wu,
    JASA 83, 1988); one seed keeps its weight.
    """
    if seeds < 2:
        return np.ones((resamples, seeds))
    drawn = np.random.default_rng([seed, 0x5EED]).integers(0, seeds, (resamples, seeds - 1))
    drawn += seeds * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * seeds).reshape(resamples, seeds)
    return np.asarray(counts / (seeds - 1))


def over_seeds(draws: FloatArray, weights: FloatArray) -> FloatArray:
    """Resamples of test groups and seeds together: draws [..., R, B] averaged with weights [B, R], [..., B]."""
    return np.asarray(np.einsum("...rb,br->...b", draws, weights))


@dataclass(frozen=True, slots=True)
class Spread:
    """The variance of a statistic over new test groups and new seeds together, and its degrees of freedom."""

    variance: float
    freedom: float

    @classmethod
    def of(cls, both: float, of_groups: float, of_seeds: float, *, groups: int, seeds: int) -> Spread:
        """From the variances under resamples of `both`, of groups alone and of seeds alone.

        Resampling both counts what a group and a seed have in common (a model's luck with one patient) three times, and
        each alone counts it once (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007, theorem 3): once
        is 2 (groups + seeds) - both. Degrees of freedom by Satterthwaite (Biometrics Bulletin 2, 1946), with R - 1 for
        what seeds add to the variance of the groups, and G - 1 for the latter.
        """
        if seeds < 2:
            return cls(of_groups, float(max(1, groups - 1)))
        whole = max(2 * (of_groups + of_seeds) - both, of_groups, of_seeds)
        added = whole - of_groups
        bottom = added**2 / (seeds - 1) + of_groups**2 / max(1, groups - 1)
        return cls(whole, whole**2 / bottom if bottom > 0 else float(max(1, groups - 1)))

    def t(self, confidence: float) -> float:
        """The quantile of t."""
        return float(stats.t.ppf((1 + confidence) / 2, self.freedom))


def saving(
    own: Curve,
    other: Curve,
    *,
    groups: int,
    higher_is_better: bool = True,
    level: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Saving:
    """How many times the labels of `own` that `other` needs for the same value of the metric, with its interval.

    Each curve is the mean over the seeds, made monotone and interpolated on the logarithm of the labels. `level`: the
    value at which they are compared; default: the middle of the values that both reach, kept in all resamples. Both
    curves see the same resamples, of the `groups` test groups (in `draws`) and of the seeds: the interval goes from the
    2.5th to the 97.5th percentile of the ratio, each end's distance from the estimate (on the logarithm) scaled to the
    standard error of `Spread`, and by t / z, because a few seeds say little about their own spread. A resample in which the level lies outside a
    curve counts as a ratio beyond it, on the side where it must lie, or on both where that is not known. The estimand
    is the ratio of the mean curves over new draws of labels (one seed: of these fitted models) on new groups.
    """
    sign = 1.0 if higher_is_better else -1.0
    fits = [monotone(sign * curve.values.mean(axis=1)[None])[0] for curve in (own, other)]
    low, high = (float(end) for end in (max(fit[0] for fit in fits), min(fit[-1] for fit in fits)))
    middle = (low + high) / 2 if level is None else sign * level
    if not np.isfinite([low, high]).all() or not low <= middle <= high or high - low < ZERO:
        return _undefined(own, other, fits, sign, level)
    at = [
        float(needed(curve.labels, fit[None], middle)[0])
        for curve, fit in zip((own, other), fits, strict=True)
    ]
    gap = at[1] - at[0]
    seeds, resamples = own.draws.shape[1:]
    weights = seed_weights(seeds, resamples, seed)
    draws = _gaps(own, other, [over_seeds(curve.draws, weights) for curve in (own, other)], sign, middle)
    lost = float(np.isnan(draws).mean())
    words = f"{resamples} resamples of test groups{f' and {seeds} seeds' if seeds > 1 else ''}, paired"
    found = (sign * middle, float(np.exp(at[0])), float(np.exp(at[1])), float(np.exp(gap)))
    if np.array_equal(own.labels, other.labels) and np.array_equal(own.draws, other.draws):
        return Saving(*found, 1.0, 1.0, "identical curves")
    if lost > OPEN:
        why = f"undefined: in {100 * lost:.0f} % of resamples the level lies outside both curves"
        return Saving(*found, float("nan"), float("nan"), why)
    tail = (1 - confidence) / 2
    ends = (
        float(np.quantile(np.where(np.isnan(draws), -np.inf, draws), tail, method="lower")),
        float(np.quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail, method="higher")),
    )
    even = [curve.draws.mean(axis=1) for curve in (own, other)]
    alone = _variance(_gaps(own, other, even, sign, middle))
    both = _variance(draws)
    spread = Spread.of(both, alone, _of_seeds(own, other, sign, middle), groups=groups, seeds=seeds)
    scale = spread.t(confidence) / float(stats.norm.ppf(1 - tail))
    scale *= float(np.sqrt(spread.variance / both)) if both > 0 else 1.0
    bottom, top = (float(np.exp(gap + scale * (end - gap))) for end in ends)
    method = (
        f"{words}, percentiles scaled by t / z, {100 * confidence:g} %; estimand: "
        + ("mean over draws of labels" if seeds > 1 else "these fitted models")
        + " on new groups"
    )
    return Saving(*found, bottom, top, method)


def _variance(draws: FloatArray) -> float:
    known = draws[np.isfinite(draws)]
    return float(known.var(ddof=1)) if len(known) > 1 else 0.0


def _gaps(own: Curve, other: Curve, means: list[FloatArray], sign: float, level: float) -> FloatArray:
    """log(labels of other / labels of own) in each resample, [B], of mean curves [A, B]; NaN where nothing is known."""
    a, b = (
        needed(curve.labels, monotone(sign * mean.T), level)
        for curve, mean in zip((own, other), means, strict=True)
    )
    unknown = ~np.isfinite(means[0]).all(axis=0) | ~np.isfinite(means[1]).all(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(unknown, np.nan, b - a)  # two infinities of one sign: NaN


def _of_seeds(own: Curve, other: Curve, sign: float, level: float) -> float:
    """The variance of the log ratio that comes from the seeds: the jackknife's."""
    seeds = own.values.shape[1]
    if seeds < 2:
        return 0.0
    left = [
        np.stack([np.delete(curve.values, r, axis=1).mean(axis=1) for r in range(seeds)], axis=1)
        for curve in (own, other)
    ]
    found = _gaps(own, other, left, sign, level)
    found = found[np.isfinite(found)]
    return float((seeds - 1) * found.var()) if len(found) > 1 else 0.0


def _undefined(own: Curve, other: Curve, fits: list[FloatArray], sign: float, level: float | None) -> Saving:
    """Why there is no ratio, and what can be said instead."""
    nan = float("nan")
    if level is not None:
        why = f"a curve does not reach {level:g} inside the amounts that were tried"
    elif fits[0][0] > fits[1][-1]:
        why = (
            "the curves share no level: the first is better with its fewest labels "
            f"({own.labels[0]:g}) than the second with its most ({other.labels[-1]:g})"
        )
    elif fits[1][0] > fits[0][-1]:
        why = (
            "the curves share no level: the second is better with its fewest labels "
            f"({other.labels[0]:g}) than the first with its most ({own.labels[-1]:g})"
        )
    else:
        why = "the curves share no level: a curve is flat, or has no value at some amount"
    del sign
    return Saving(nan if level is None else level, nan, nan, nan, nan, nan, f"undefined: {why}")
