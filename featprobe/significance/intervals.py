"""One metric of one model with its interval: how well these fitted models would do on new groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from featprobe.errors import ResultsError
from featprobe.records import Estimate, FloatArray, Predictions, RunKey
from featprobe.registry import METRICS
from featprobe.significance.bootstrap import (
    HeldOut,
    Metric,
    exact_floor,
    held_out,
    point,
    resampled,
    unresampleable,
    words,
)

ZERO: Final = 1e-12
"""Values nearer to each other than this are the same number but for rounding."""

LOST: Final = 0.05
"""Share of resamples that may be without a value."""

Interval = tuple[float, float, str]


def estimates(
    predictions_by_fold: Sequence[Predictions],
    metrics: Sequence[str],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Each metric of each fold with its interval, then of the mean over folds where there are several.

    Groups (joined by equal bytes too) are resampled within each fold's test rows; a metric is computed per
    fold and averaged, never over pooled folds. With the bootstrap's standard error s the interval is
    logit(value) +- t(units - strata) s / (v (1 - v)) on the logit scale, v = value / upper: in simulations
    it covers where the percentile interval falls short (few groups, values near 1). The estimand is the
    performance of these fitted models on new groups. Where nothing varies, an exact bound (proportions) or
    NaN with the reason. The key's fold is "mean" for the average; its `n_train` is the rounded mean.
    Raises ResultsError where there are no test rows.
    """
    members: list[Metric] = [METRICS.get(name) for name in metrics]
    parts = [held_out(predictions) for predictions in predictions_by_fold]
    if not parts or any(not len(part.samples) for part in parts):
        raise ResultsError("there are no test rows to judge", "", "type: featprobe probe again")
    scores = [p.y_score[part.order] for p, part in zip(predictions_by_fold, parts, strict=True)]
    points = np.array(
        [[point(part, m, score) for m in members] for part, score in zip(parts, scores, strict=True)]
    )
    draws = np.stack(
        [
            resampled(part, members, [score], resamples=resamples, seed=[seed, number])[:, 0]
            for number, (part, score) in enumerate(zip(parts, scores, strict=True))
        ]
    )
    rows: list[Estimate] = []
    for number, part in enumerate(parts):
        source = predictions_by_fold[number]
        for m, metric in enumerate(members):
            span = _interval([part], metric, points[[number], m], draws[[number], m], confidence)
            rows.append(_estimate(source.key, source.n_train, [part], metric, points[[number], m], span))
    if len(parts) > 1:
        key = dataclasses.replace(predictions_by_fold[0].key, fold="mean")
        n_train = round(float(np.mean([p.n_train for p in predictions_by_fold])))
        for m, metric in enumerate(members):
            span = _interval(parts, metric, points[:, m], draws[:, m], confidence)
            rows.append(_estimate(key, n_train, parts, metric, points[:, m], span))
    return rows


def _estimate(
    key: RunKey,
    n_train: int,
    parts: Sequence[HeldOut],
    metric: Metric,
    values: FloatArray,
    interval: Interval,
) -> Estimate:
    return Estimate(
        key=key,
        n_train=n_train,
        n_test=sum(len(part.samples) for part in parts),
        n_groups=sum(part.n_units for part in parts),
        metric=metric.name,
        value=float(values.mean()),
        ci_low=interval[0],
        ci_high=interval[1],
        ci_method=interval[2],
    )


def _interval(
    parts: Sequence[HeldOut], metric: Metric, values: FloatArray, draws: FloatArray, confidence: float
) -> Interval:
    """(low, high, method) of the mean over folds: `values` [F], `draws` [F, B]."""
    value, resamples = float(values.mean()), draws.shape[1]
    how, population = words(parts, metric, resamples=resamples, confidence=confidence)
    models = "these fitted models" if len(parts) > 1 else "this fitted model"
    estimand = f"estimand: {models} on {population}"
    if not np.isfinite(value):
        return _undefined("the test rows hold one class only")
    if reason := unresampleable(parts, metric):
        return _undefined(reason)
    mean = draws.mean(axis=0)
    mean = mean[np.isfinite(mean)]
    lost = resamples - len(mean)
    if lost > LOST * resamples:
        return _undefined(f"{lost} of {resamples} resamples hold one class only")
    if np.ptp(mean) < ZERO:
        return _exact(parts, metric, value, confidence, estimand)
    low, high = logit_interval(
        value,
        float(mean.std(ddof=1)),
        sum(part.design(metric).freedom for part in parts),
        confidence,
        metric.largest(len(parts[0].samples.label_names)),
    )
    left_out = f", {lost} without a value left out" if lost else ""
    return low, high, f"{how}{left_out}, t on the logit scale; {estimand}"


def logit_interval(
    value: float, error: float, freedom: int, confidence: float, upper: float = 1.0
) -> tuple[float, float]:
    """Interval around `value` in (0, `upper`) with standard error `error`, by the delta method on the logit."""
    share = value / upper
    if not ZERO < share < 1 - ZERO:
        return float("nan"), float("nan")
    centre = np.log(share / (1 - share))
    half = stats.t.ppf((1 + confidence) / 2, freedom) * (error / upper) / (share * (1 - share))
    low, high = upper / (1 + np.exp(-(centre + np.array([-half, half]))))
    return float(low), float(high)


def _exact(
    parts: Sequence[HeldOut], metric: Metric, value: float, confidence: float, estimand: str
) -> Interval:
    """What can be said where every resample gives the same value."""
    floor = exact_floor(parts, metric, confidence)
    groups = sum(part.n_units for part in parts)
    method = f"exact Clopper-Pearson bound, {100 * confidence:g} %, all of {groups} groups"
    if np.isfinite(floor) and abs(value - 1) < ZERO:
        return floor, 1.0, f"{method} right; {estimand}"
    if np.isfinite(floor) and abs(value) < ZERO:
        return 0.0, 1 - floor, f"{method} wrong; {estimand}"
    return _undefined("every resample gives the same value")


def _undefined(reason: str) -> Interval:
    return float("nan"), float("nan"), f"undefined: {reason}"
