"""Points of the ROC curve at which one kind of error is held down: what is left of the other kind."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from featprobe.metrics.counting import BoolArray, mean_of_parts, ratio
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
    return mean_of_parts(functools.partial(_held, least, _sensitivity), y_true, y_score, weights)


def at_sensitivity(least: float, y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """The largest specificity of a threshold whose sensitivity is at least `least`, [B]; else as `at_specificity`."""
    return mean_of_parts(functools.partial(_held, least, _specificity), y_true, y_score, weights)


def _held(
    least: float,
    read: Callable[[float, FloatArray, FloatArray], FloatArray],
    positive: BoolArray,
    score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """`read(least, found [B, T], called [B, T])` on the weight of positives and of negatives from each threshold on."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], [True]))
    ordered = np.take(weights, order, axis=1)
    found, called = (np.cumsum(ordered * side[order], axis=1) for side in (positive, ~positive))
    if len(last) < len(score):
        found, called = np.take(found, last, axis=1), np.take(called, last, axis=1)
    return read(least, found, called)


def _sensitivity(least: float, found: FloatArray, called: FloatArray) -> FloatArray:
    positives, negatives = found[:, -1], called[:, -1]
    allowed = (1 - least + ROUNDING) * negatives
    # `called` only rises from threshold to threshold: the last one allowed calls the most.
    number = (called <= allowed[:, None]).sum(axis=1)
    best = np.take_along_axis(found, np.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
    value = ratio(np.where(number > 0, best, 0.0), positives)
    return np.where(negatives > 0, value, np.nan)


def _specificity(least: float, found: FloatArray, called: FloatArray) -> FloatArray:
    positives, negatives = found[:, -1], called[:, -1]
    first = (found < ((least - ROUNDING) * positives)[:, None]).sum(axis=1)
    spent = np.take_along_axis(called, first[:, None], axis=1)[:, 0]
    value = 1 - ratio(spent, negatives)
    return np.where(positives > 0, value, np.nan)
