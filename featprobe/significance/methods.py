"""Intervals by another method than the usual t: for who must report percentile, BCa, DeLong or Wilson."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import Estimate, FloatArray, Predictions
from featprobe.significance.areas import AREAS, area_floor, areas_of, single_rows
from featprobe.significance.bca import acceleration, bca_interval, jackknife
from featprobe.significance.bootstrap import (
    HeldOut,
    Metric,
    held_out,
    point,
    resampled,
    scale_of,
    scored,
    suitable,
    too_many_lost,
    unresampleable,
    words,
)
from featprobe.significance.delong import mean_area
from featprobe.significance.intervals import LOST, Interval, _estimate, _exact, _undefined
from featprobe.significance.percentile import percentile_interval
from featprobe.significance.scales import ZERO
from featprobe.significance.wilson import wilson_of_rows

INTERVALS: Final = ("t", "percentile", "bca", "delong", "wilson")


def fits(method: str, metric: str) -> bool:
    """Whether a method gives intervals of this metric: DeLong of areas, Wilson of accuracy, the others of all."""
    return metric in {"delong": AREAS, "wilson": ("accuracy",)}.get(method, (metric,))


def intervals_by(
    method: str,
    predictions_by_fold: Sequence[Predictions],
    metrics: Sequence[str],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Estimates as `estimates` has them, with intervals by `method` (of INTERVALS but "t"), for the metrics it fits.

    Per fold and, where there are several, of their mean. "percentile" and "bca" draw n of n groups (in each stratum
    where a class is rare), as their names mean, "delong" is carried to the logit scale, "wilson" takes the rows of all
    folds together. The estimand is the performance of these fitted models on new groups. Raises ConfigError for
    "wilson" where a group has several rows, and where no metric fits.
    """
    fitting = [name for name in metrics if fits(method, name)]
    if not fitting:
        raise ConfigError(
            f"--interval {method} fits none of the metrics {', '.join(metrics)}",
            "delong is for areas under the ROC curve, wilson for accuracy",
            "type --interval t, or bca",
        )
    parts = [held_out(predictions) for predictions in predictions_by_fold]
    rows: list[Estimate] = []
    for metric in suitable(fitting, predictions_by_fold[0].samples.task):
        scores = [
            scored(own, metric)[part.order] for own, part in zip(predictions_by_fold, parts, strict=True)
        ]
        judge = _Method(method, metric, resamples=resamples, confidence=confidence, seed=seed)
        for number, part in enumerate(parts):
            source, values = predictions_by_fold[number], judge.points([part], [scores[number]])
            span = judge.interval([part], [scores[number]], values, first=number)
            rows.append(_estimate(source.key, source.n_train, [part], metric, values, span))
        if len(parts) > 1:
            key = dataclasses.replace(predictions_by_fold[0].key, fold="mean")
            n_train = round(float(np.mean([own.n_train for own in predictions_by_fold])))
            values = judge.points(parts, scores)
            span = judge.interval(parts, scores, values, first=0)
            rows.append(_estimate(key, n_train, parts, metric, values, span))
    return rows


@dataclasses.dataclass(frozen=True, slots=True)
class _Method:
    """One method for one metric; `scores`: per fold [N, C] in the order of the fold's samples."""

    method: str
    metric: Metric
    resamples: int
    confidence: float
    seed: int

    def points(self, parts: Sequence[HeldOut], scores: Sequence[FloatArray]) -> FloatArray:
        """The metric per fold, [F]."""
        return np.array([point(part, self.metric, score) for part, score in zip(parts, scores, strict=True)])

    def interval(
        self, parts: Sequence[HeldOut], scores: Sequence[FloatArray], values: FloatArray, *, first: int
    ) -> Interval:
        """(low, high, method and estimand) of the mean over folds; `first`: the first fold's number, for its seed."""
        population = words(parts, self.metric, resamples=self.resamples, confidence=self.confidence)[1]
        models = "these fitted models" if len(parts) > 1 else "this fitted model"
        estimand = f"estimand: {models} on {population}"
        if not np.isfinite(values).all():
            return _undefined("the metric has no value on these test rows")
        if self.method == "delong":
            return self._delong(parts, scores, estimand)
        if self.method == "wilson":
            return self._wilson(parts, scores, estimand)
        return self._bootstrap(parts, scores, values, estimand, first)

    def _wilson(self, parts: Sequence[HeldOut], scores: Sequence[FloatArray], estimand: str) -> Interval:
        right = [s.argmax(axis=1) == part.samples.label for s, part in zip(scores, parts, strict=True)]
        offsets = np.cumsum([0, *(part.n_units for part in parts)])
        unit = np.concatenate(
            [part.plain.unit + start for part, start in zip(parts, offsets[:-1], strict=True)]
        )
        low, high = wilson_of_rows(np.concatenate(right).astype(float), unit, self.confidence)
        together = ", rows of all folds together" if len(parts) > 1 else ""
        return low, high, f"Wilson score, {100 * self.confidence:g} %{together}; {estimand}"

    def _delong(self, parts: Sequence[HeldOut], scores: Sequence[FloatArray], estimand: str) -> Interval:
        areas = mean_area([areas_of(part, [score]) for part, score in zip(parts, scores, strict=True)])
        value = float(areas.value[0])
        variance, freedom = areas.variance(np.ones(1))
        form = "DeLong" if all(map(single_rows, parts)) else "clustered DeLong (Obuchowski)"
        level = f"{100 * self.confidence:g} %"
        if len(parts) == 1 and abs(value - 1) < ZERO:
            floor = area_floor(parts[0], self.confidence)
            if np.isfinite(floor):
                return floor, 1.0, f"exact bound of disjoint pairs, {level}, perfect separation; {estimand}"
        if not variance > 0:
            return _undefined("the area has no variance, or a class too few groups")
        low, high = scale_of(parts, self.metric).interval(
            value, float(np.sqrt(variance)), freedom, self.confidence
        )
        return low, high, f"{form}, {level}, t on the logit scale; {estimand}"

    def _bootstrap(
        self,
        parts: Sequence[HeldOut],
        scores: Sequence[FloatArray],
        values: FloatArray,
        estimand: str,
        first: int,
    ) -> Interval:
        if reason := unresampleable(parts, self.metric):
            return _undefined(reason)
        draws = np.mean(
            [
                resampled(
                    part,
                    [self.metric],
                    [score],
                    resamples=self.resamples,
                    seed=[self.seed, first + f],
                    whole=True,
                )[0, 0]
                for f, (part, score) in enumerate(zip(parts, scores, strict=True))
            ],
            axis=0,
        )
        kept = draws[np.isfinite(draws)]
        if (lost := len(draws) - len(kept)) > LOST * len(draws):
            return _undefined(too_many_lost(parts, lost, len(draws)))
        value = float(values.mean())
        if np.ptp(kept) < scale_of(parts, self.metric).rounding(value):
            return _exact(parts, self.metric, value, self.confidence, estimand)
        how = words(parts, self.metric, resamples=self.resamples, confidence=self.confidence)[0]
        left_out = f", {lost} without a value left out" if lost else ""
        if self.method == "percentile":
            low, high = percentile_interval(kept, self.confidence)
            return low, high, f"{how}{left_out}, percentile; {estimand}"
        skew = acceleration(
            [
                item
                for part, score in zip(parts, scores, strict=True)
                for item in jackknife(part, self.metric, score, seed=self.seed)
            ]
        )
        low, high = bca_interval(value, kept, skew, self.confidence)
        if not np.isfinite(low + high):
            return _undefined("BCa does not exist: every resample lies on one side of the value")
        return low, high, f"{how}{left_out}, BCa with the groups' jackknife; {estimand}"
