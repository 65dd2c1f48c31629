"""A curve is an estimate like any other: pointwise bands for ROC and precision-recall curves, resampled by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from featprobe.records import FloatArray
from featprobe.report import curves

RESAMPLES: Final = 300
GRID: Final = np.linspace(0.0, 1.0, 101)
SEED: Final = 0
_FEWEST: Final = 0.9
"""Share of the resamples in which a curve must be defined for its band to be drawn."""

Heights = Callable[[FloatArray, FloatArray], FloatArray]
Band = tuple[FloatArray, FloatArray, FloatArray]
"""(grid, low, high), each [len(GRID)]."""


def roc_band(rows: pd.DataFrame, classes: Sequence[str], task: str) -> Band | None:
    """The pointwise 95 % band of `curves.roc_of_system`: at each false positive rate of GRID, the middle 95 % of the
    true positive rates over RESAMPLES draws of groups, each fold's among themselves.

    None where the curve is not defined in one resample of ten, or more.
    """  # noqa: D205 - what it is takes two lines
    return _band(rows, classes, task, _true_positive_rates)


def pr_band(rows: pd.DataFrame, classes: Sequence[str], task: str) -> Band | None:
    """The same of `curves.pr_of_system`: at each recall of GRID, the middle 95 % of the precisions."""
    return _band(rows, classes, task, _precisions)


def _band(rows: pd.DataFrame, classes: Sequence[str], task: str, heights: Heights) -> Band | None:
    rng = np.random.default_rng(SEED)
    by_fold = []
    for _, fold in rows.groupby("fold", sort=True):
        weights = _weights(fold["group"].to_numpy(dtype=str), rng)
        found = list(_resampled(fold, classes, task, weights, heights))
        if found:
            by_fold.append(_mean(found))
    if not by_fold:
        return None
    drawn = _mean(by_fold)
    known = drawn[np.isfinite(drawn).all(axis=1)]
    if len(known) < _FEWEST * RESAMPLES:
        return None
    low, high = np.quantile(known, [0.025, 0.975], axis=0)
    return GRID, low, high


def _weights(groups: npt.NDArray[np.str_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """How often each row's group is drawn, float32 [RESAMPLES, N]."""
    names, codes = np.unique(groups, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return np.asarray(drawn.astype(np.float32)[:, codes])


def _resampled(
    fold: pd.DataFrame,
    classes: Sequence[str],
    task: str,
    weights: npt.NDArray[np.float32],
    heights: Heights,
) -> Iterator[FloatArray]:
    """[RESAMPLES, len(GRID)] per question; NaN in a resample that lacks the class or its complement."""
    for rows, positive, score in curves.questions(fold, classes, task):
        order = np.argsort(-score, kind="stable")
        if not len(order) or positive.all() or not positive.any():
            continue
        last_of_ties = np.append(np.diff(score[order]) != 0, True)
        drawn = weights[:, rows[order]]
        hits = positive[order]
        true = np.cumsum(drawn * hits, axis=1, dtype=np.float64)[:, last_of_ties]
        false = np.cumsum(drawn * ~hits, axis=1, dtype=np.float64)[:, last_of_ties]
        found = np.full((len(true), len(GRID)), np.nan)
        for number in np.flatnonzero((true[:, -1] > 0) & (false[:, -1] > 0)):
            found[number] = heights(true[number], false[number])
        yield found


def _true_positive_rates(true: FloatArray, false: FloatArray) -> FloatArray:
    """[len(GRID)] of the cumulated counts, one per distinct score."""
    heights = np.interp(GRID, np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1]))
    return np.asarray(heights)


def _precisions(true: FloatArray, false: FloatArray) -> FloatArray:
    """See `_true_positive_rates`."""
    drawn = true + false > 0  # scores above those of all drawn rows are no thresholds of the resample
    true, false = true[drawn], false[drawn]
    return np.asarray(curves.at_recall(true / true[-1], true / (true + false), GRID))


def _mean(parts: Sequence[FloatArray]) -> FloatArray:
    """The mean over parts, of those that are defined in a resample; NaN where none is."""
    stacked = np.stack(parts)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
