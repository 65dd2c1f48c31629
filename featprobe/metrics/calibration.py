"""Do 80 % mean 80 %: probabilities in bins, each bin's mean beside the share that came true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featprobe.metrics.counting import BoolArray, ratio
from featprobe.records import FloatArray, IntArray

BINS = 15
"""Bins of every calibration error, as Guo et al. (ICML 2017) and Nixon et al. (CVPR workshops 2019) use."""


def fewest(n_classes: int) -> float:
    """The largest classwise calibration error: all of each row's probability on wrong classes, over C classes."""
    return 2.0 / n_classes


def equal_width(said: FloatArray, came: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(weight of each bin [B, BINS], weighted sum of came - said in it [B, BINS]).

    `said` [N]: probabilities; `came` [N]: 1 where it came true, else 0. Bin m of 1..M holds ((m - 1) / M, m / M], the
    first one 0 too.
    """
    number = np.clip(np.ceil(said * BINS).astype(np.int64) - 1, 0, BINS - 1)
    inside = (number[:, None] == np.arange(BINS)).astype(float)
    table = weights @ np.hstack([inside, inside * (came - said)[:, None]])
    return table[:, :BINS], table[:, BINS:]


def width_error(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over rows of |share that came true - mean probability| of the row's bin, bins of equal width, [B]."""
    held, off = equal_width(score, positive.astype(float), weights)
    return ratio(np.abs(off).sum(axis=1), held.sum(axis=1))


def mass_error(positive: BoolArray, score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over bins of |share that came true - mean probability|, bins of equal weight, [B].

    Rows in the order of their scores are cut into BINS parts of exactly equal weight: a row on a cut counts on both
    sides of it by its parts, and rows of equal score, which have no order, are cut as one mixture. So the value depends
    neither on the order of rows nor on whether a row weighs two or stands there twice.
    """
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(score) - 1)
    ordered = np.take(weights, order, axis=1)
    mass = np.take(np.cumsum(ordered, axis=1), last, axis=1)
    ordered *= (positive - score)[order]
    off = np.take(np.cumsum(ordered, axis=1), last, axis=1)
    total = mass[:, -1]
    gaps = np.empty(len(weights))
    cuts = np.linspace(0.0, 1.0, BINS + 1)
    for b in range(len(weights)):
        # Cumulated sums are straight lines between the ends of equal scores.
        at = np.interp(cuts * total[b], np.append(0.0, mass[b]), np.append(0.0, off[b]))
        gaps[b] = np.abs(np.diff(at)).sum()
    return ratio(gaps, total)


def over_classes(
    error: Callable[[BoolArray, FloatArray, FloatArray], FloatArray],
    y_true: IntArray,
    y_score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """Mean of `error` over all classes, each against the rest, also those that no row is of, [B]."""
    columns = [error(y_true == c, y_score[:, c], weights) for c in range(y_score.shape[1])]
    return np.asarray(np.mean(columns, axis=0))
