"""Points of the ROC curve at which one kind of error is held down: what is left of the other kind."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from featprobe.metrics.counting import BoolArray, mean_of_parts, ratio
from featprobe.metrics.ranking import by_row, from_top, ranked
from featprobe.records import FloatArray, IntArray

ROUNDING = 1e-9
"""Share of the weight by which a bound may be missed: sums of weights are rounded."""


def at_specificity(least: float, y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """The largest sensitivity of a threshold whose specificity is at least `least`, [B].

    Thresholds are the scores themselves ("positive from this score on") and one above them all, at which nothing is
    called and the sensitivity is 0: points that a reader can set, no interpolation between them. Rows of equal score
    are called together. Class 1 of two; of more, and of labels, the mean of each against the rest (labels: on their
    known cells). A class or label counts in a resample in which both its sides have weight.
    """
    return mean_of_parts(functools.partial(_held, least, _sensitivity), y_true, y_score, by_row(weights))


def at_sensitivity(least: float, y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """The largest specificity of a threshold whose sensitivity is at least `least`, [B]; else as `at_specificity`."""
    return mean_of_parts(functools.partial(_held, least, _specificity), y_true, y_score, by_row(weights))


def _held(
    least: float,
    read: Callable[[float, FloatArray, FloatArray, FloatArray], FloatArray],
    positive: BoolArray,
    score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """`read(least, found [U, B], called [U, B])` on the positives and negatives from each positive score on, falling.

    Other thresholds need no look: lifted to the next positive score above, they find as many and call fewer.
    """
    won, lost = ranked(positive, score, weights)
    found, called = from_top(won)[::-1], from_top(lost)[1:][::-1]
    rest = lost.sum(axis=0)
    if not len(found):
        return np.full(weights.shape[0], np.nan)
    return np.where(rest > 0, read(least, found, called, rest), np.nan)


def _sensitivity(least: float, found: FloatArray, called: FloatArray, rest: FloatArray) -> FloatArray:
    allowed = (1 - least + ROUNDING) * rest
    # `called` only rises from threshold to threshold: the last one allowed finds the most.
    number = (called <= allowed).sum(axis=0)
    best = np.take_along_axis(found, np.maximum(number - 1, 0)[None], axis=0)[0]
    return ratio(np.where(number > 0, best, 0.0), found[-1])


def _specificity(least: float, found: FloatArray, called: FloatArray, rest: FloatArray) -> FloatArray:
    positives = found[-1]
    first = (found < (least - ROUNDING) * positives).sum(axis=0)
    spent = np.take_along_axis(called, first[None], axis=0)[0]
    return np.where(positives > 0, np.maximum(1 - ratio(spent, rest), 0.0), np.nan)
