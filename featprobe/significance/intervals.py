"""One metric of one model with its interval: how well these fitted models would do on new groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe.errors import ResultsError
from featprobe.records import Estimate, FloatArray, Predictions, RunKey
from featprobe.significance.bootstrap import (
    HeldOut,
    Metric,
    exact_floor,
    held_out,
    no_value,
    point,
    resampled,
    scale_of,
    scored,
    suitable,
    too_many_lost,
    unresampleable,
    words,
)
from featprobe.significance.freedom import freedom_of
from featprobe.significance.scales import ZERO

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
    value +- t(units - strata) s (with rare classes Satterthwaite's degrees, see `freedom_of`), carried by the delta method to the scale that fits the metric's range (see
    `Scale`; for most logit(v) +- t s / (v (1 - v)), v the value's place in the range): in simulations
    it covers where the percentile interval falls short (few groups, values near 1). The estimand is the
    performance of these fitted models on new groups. Where nothing varies, an exact bound (proportions) or
    NaN with the reason. The key's fold is "mean" for the average; its `n_train` is the rounded mean. Rows
    without a label are not judged. Raises ResultsError where there are no test rows, ConfigError for a metric
    that does not judge this kind of target.
    """
    members = suitable(metrics, predictions_by_fold[0].samples.task) if predictions_by_fold else []
    parts = [held_out(predictions) for predictions in predictions_by_fold]
    if not parts or any(not len(part.samples) for part in parts):
        raise ResultsError("there are no test rows to judge", "", "type: featprobe probe again")
    points = np.array(
        [
            [point(part, m, scored(own, m)[part.order]) for m in members]
            for own, part in zip(predictions_by_fold, parts, strict=True)
        ]
    )
    draws = np.stack(
        [
            _draws(own, part, members, resamples=resamples, seed=[seed, number])
            for number, (own, part) in enumerate(zip(predictions_by_fold, parts, strict=True))
        ]
    )
    scores = [
        [scored(own, m)[part.order] for own, part in zip(predictions_by_fold, parts, strict=True)]
        for m in members
    ]
    rows: list[Estimate] = []
    for number, part in enumerate(parts):
        source = predictions_by_fold[number]
        for m, metric in enumerate(members):
            freedom = freedom_of([part], metric, [[scores[m][number]]], seed=seed)
            span = _interval(
                [part], metric, points[[number], m], draws[[number], m], confidence, freedom=freedom
            )
            rows.append(_estimate(source.key, source.n_train, [part], metric, points[[number], m], span))
    if len(parts) > 1:
        key = dataclasses.replace(predictions_by_fold[0].key, fold="mean")
        n_train = round(float(np.mean([p.n_train for p in predictions_by_fold])))
        for m, metric in enumerate(members):
            freedom = freedom_of(parts, metric, [[score] for score in scores[m]], seed=seed)
            span = _interval(parts, metric, points[:, m], draws[:, m], confidence, freedom=freedom)
            rows.append(_estimate(key, n_train, parts, metric, points[:, m], span))
    return rows


def _draws(
    own: Predictions, part: HeldOut, members: Sequence[Metric], *, resamples: int, seed: Sequence[int]
) -> FloatArray:
    """Resampled values of each metric on one fold, float64 [M, B]; all see the same draws."""
    result = np.empty((len(members), resamples))
    for moved in (False, True):
        chosen = [m for m, metric in enumerate(members) if _is_moved(own, metric) is moved]
        if chosen:
            metrics = [members[m] for m in chosen]
            score = scored(own, metrics[0])[part.order]
            result[chosen] = resampled(part, metrics, [score], resamples=resamples, seed=seed)[:, 0]
    return result


def _is_moved(own: Predictions, metric: Metric) -> bool:
    return scored(own, metric) is not own.y_score


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
    parts: Sequence[HeldOut],
    metric: Metric,
    values: FloatArray,
    draws: FloatArray,
    confidence: float,
    *,
    freedom: float | None = None,
    hindered: str | None = None,
) -> Interval:
    """(low, high, method) of the mean over folds: `values` [F], `draws` [F, B].

    `freedom`: degrees of freedom (default: units less strata). `hindered`: why groups can't be resampled ("" where they
    can), where the caller knows better than fold by fold.
    """
    value, resamples = float(values.mean()), draws.shape[1]
    how, population = words(parts, metric, resamples=resamples, confidence=confidence)
    models = "these fitted models" if len(parts) > 1 else "this fitted model"
    estimand = f"estimand: {models} on {population}"
    if not np.isfinite(value):
        return _undefined(no_value(parts))
    if reason := unresampleable(parts, metric) if hindered is None else hindered:
        return _undefined(reason)
    mean = draws.mean(axis=0)
    mean = mean[np.isfinite(mean)]
    lost = resamples - len(mean)
    if lost > LOST * resamples:
        return _undefined(too_many_lost(parts, lost, resamples))
    scale = scale_of(parts, metric)
    if np.ptp(mean) < scale.rounding(value):
        return _exact(parts, metric, value, confidence, estimand)
    if freedom is None:
        freedom = sum(part.design(metric).freedom for part in parts)
    low, high = scale.interval(value, float(mean.std(ddof=1)), freedom, confidence)
    if not np.isfinite(low + high):
        return _undefined(
            f"the value lies at an end of its range, where {scale.name} has no room for an interval"
        )
    left_out = f", {lost} without a value left out" if lost else ""
    return low, high, f"{how}{left_out}, t on {scale.name}; {estimand}"


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
