"""Means of what each test row is worth by itself, such as a query's precision: intervals and pairs as for any metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from featprobe.errors import ResultsError
from featprobe.records import TASKS, AnyArray, FloatArray, Samples
from featprobe.significance.bootstrap import Design, HeldOut, weight_chunks
from featprobe.significance.comparison import Comparison, _Judge, _mismatch
from featprobe.significance.intervals import _interval
from featprobe.significance.pair_tests import Tested

INDEX: Final = ("index", "indexes")
"""What is judged, one and several, where rows are queries."""


class _Mean:
    """A mean over rows of values in [0, 1], as the statistics see a metric: where all are 1, or 0, it is a share."""

    name = "mean"
    higher_is_better = True
    needs_classes = False
    proportion = True
    tasks: tuple[str, ...] = TASKS

    def bounds(self, n_classes: int) -> tuple[float, float]:
        """A mean lies between the values' bounds, whatever the number of classes."""
        del n_classes
        return 0.0, 1.0

    def __call__(self, y_true: AnyArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
        """The weighted mean of the values `y_score` [N] for each row of `weights` [B, N], [B]."""
        del y_true
        return np.asarray((weights @ y_score) / weights.sum(axis=1))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RowValues:
    """The test rows of one fold and what each is worth under M measures: float64 [N, M] in [0, 1]."""

    fold: str
    samples: Samples
    worth: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class MeanEstimate:
    """One measure's mean over the rows of a fold ("mean": over the folds) with its interval."""

    fold: str
    measure: str
    value: float
    ci_low: float
    ci_high: float
    ci_method: str
    n_rows: int
    n_groups: int


def mean_estimates(
    rows_by_fold: Sequence[RowValues],
    measures: Sequence[str],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    subject: tuple[str, str] = INDEX,
) -> list[MeanEstimate]:
    """Each of the M `measures` per fold with its interval, then of the mean over folds where there are several.

    Groups are resampled exactly as in `estimates`: a measure that is 1 for right rows and 0 for others gets the
    numbers of accuracy. `subject`: what is judged, one and several, for the
    estimand ("this index on new groups"). Raises
    ResultsError where there are no rows.
    """
    parts = [_part(rows) for rows in rows_by_fold]
    if not parts or any(not len(part.samples) for part in parts):
        raise ResultsError("there are no test rows to judge", "", "name a data set with test images")
    metric = _Mean()
    points = np.array([rows.worth.mean(axis=0) for rows in rows_by_fold])
    draws = np.stack(
        [
            _resampled(part, rows.worth, resamples=resamples, seed=[seed, number])
            for number, (part, rows) in enumerate(zip(parts, rows_by_fold, strict=True))
        ]
    )
    chosen = [([number], part.fold) for number, part in enumerate(parts)]
    chosen += [(list(range(len(parts))), "mean")] if len(parts) > 1 else []
    result = []
    for numbers, fold in chosen:
        own = [parts[number] for number in numbers]
        for m, measure in enumerate(measures):
            low, high, how = _interval(own, metric, points[numbers, m], draws[numbers, m], confidence)
            result.append(
                MeanEstimate(
                    fold=fold,
                    measure=measure,
                    value=float(points[numbers, m].mean()),
                    ci_low=low,
                    ci_high=high,
                    ci_method=_about(how, subject),
                    n_rows=sum(len(part.samples) for part in own),
                    n_groups=sum(part.n_units for part in own),
                )
            )
    return result


def compare_means(
    systems: Mapping[str, Sequence[RowValues]],
    measures: Sequence[str],
    *,
    dataset: str,
    level: str = "image",
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    subject: tuple[str, str] = INDEX,
) -> list[Comparison]:
    """Per measure all pairs of systems and the set of the best, as `compare` has them for metrics.

    `systems`: name -> its rows fold by fold. Raises ResultsError where systems were not judged on the same
    rows and groups.
    """
    names = list(systems)
    folds = {name: [_sorted(rows) for rows in own] for name, own in systems.items()}
    for name in names[1:]:
        _need_same(names[0], folds[names[0]], name, folds[name])
    parts = [_part(rows) for rows in folds[names[0]]]
    stacked = [np.stack([folds[name][f].worth for name in names], axis=1) for f in range(len(parts))]
    draws = np.mean(
        [
            _resampled(part, values.reshape(len(values), -1), resamples=resamples, seed=[seed, number])
            for number, (part, values) in enumerate(zip(parts, stacked, strict=True))
        ],
        axis=0,
    ).reshape(len(names), len(measures), resamples)
    found = []
    for m, measure in enumerate(measures):
        own = [values[:, :, m] for values in stacked]
        means = np.mean([values.mean(axis=0) for values in own], axis=0)
        judge = _Judge(parts, _Mean(), means, draws[:, m], confidence)
        same = {
            (i, j): all(np.array_equal(values[:, i], values[:, j]) for values in own)
            for i, j in combinations(range(len(names)), 2)
        }
        found.append(_comparison(judge, names, same, (dataset, level, measure), subject))
    return found


def _comparison(
    judge: _Judge,
    names: Sequence[str],
    same: Mapping[tuple[int, int], bool],
    about: tuple[str, str, str],
    subject: tuple[str, str],
) -> Comparison:
    tested = Tested({pair: judge.pair(*pair, identical=same[pair]) for pair in same})
    pairs = tuple(
        dataclasses.replace(pair, method=_about(pair.method, subject))
        for pair in judge.differences(tested, names, about)
    )
    return Comparison(pairs, judge.standings(names, about))


def _part(rows: RowValues) -> HeldOut:
    """The rows as the statistics know them; no class has to keep its place."""
    unit = rows.samples.units()
    plain = Design(unit, np.zeros(int(unit.max(initial=-1)) + 1, dtype=np.int64))
    none = np.zeros(0, dtype=np.int64)
    return HeldOut(rows.fold, rows.samples, np.arange(len(unit)), plain, plain, none, ())


def _resampled(part: HeldOut, values: FloatArray, *, resamples: int, seed: Sequence[int]) -> FloatArray:
    """Weighted means of the columns of `values` [N, M] in each resample, float64 [M, B]."""
    chunks = [
        (weights @ values) / weights.sum(axis=1, keepdims=True)
        for weights in weight_chunks(part.plain, resamples=resamples, seed=seed)
    ]
    return np.concatenate(chunks).T


def _sorted(rows: RowValues) -> RowValues:
    order = np.argsort(rows.samples.id, kind="stable")
    return RowValues(rows.fold, rows.samples.take(order), rows.worth[order])


def _need_same(first: str, a: Sequence[RowValues], name: str, b: Sequence[RowValues]) -> None:
    if [rows.fold for rows in a] != [rows.fold for rows in b]:
        raise _mismatch(first, name, "folds")
    for left, right in zip(a, b, strict=True):
        for column, what in (("id", "test ids"), ("group", "groups")):
            values: tuple[AnyArray, AnyArray] = (
                getattr(left.samples, column),
                getattr(right.samples, column),
            )
            if not np.array_equal(*values):
                raise _mismatch(first, name, f"{what} in fold {left.fold}")


def _about(how: str, subject: tuple[str, str]) -> str:
    """The method in words with what is judged in the place of fitted models."""
    words = (("fitted models", subject[1]), ("fitted model", subject[0]), ("predictions", "values"))
    for old, new in words:
        how = how.replace(old, new)
    return how
