"""Weighted counts per class for all resamples at once: what the metrics of hard decisions share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featprobe.records import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Element-wise quotient; NaN where the denominator is 0."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def mean_of_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis without the NaN, [B]; NaN where nothing is defined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))


def columns_of(weights: FloatArray, rows: IntArray) -> FloatArray:
    """`weights[:, rows]` in the layout of `weights`."""
    if weights.flags.f_contiguous:
        return np.take(weights.T, rows, axis=0).T
    return np.take(weights, rows, axis=1)


def labels_mean(
    binary: Callable[[BoolArray, FloatArray, FloatArray], FloatArray],
    y_true: IntArray,
    y_score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """Mean over the labels of `binary(positive [n] bool, score [n], weights [B, n])` on their known cells, [B].

    `y_true` int [N, L], -1 for a cell that is not known; it counts neither way. A label counts in a resample
    in which `binary` is defined; NaN where none is.
    """
    columns = []
    for label in range(y_true.shape[1]):
        known = np.flatnonzero(y_true[:, label] >= 0)
        if not len(known):
            columns.append(np.full(len(weights), np.nan))
            continue
        weight = weights if len(known) == len(y_true) else columns_of(weights, known)
        columns.append(binary(y_true[known, label] == 1, y_score[known, label], weight))
    return mean_of_defined(np.stack(columns, axis=1))


def class_counts(
    y_true: IntArray, y_score: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weight per class of (hits, true rows, predicted rows), each [B, C]; the prediction is the argmax."""
    classes = np.arange(y_score.shape[1])
    true = y_true[:, None] == classes
    predicted = y_score.argmax(axis=1)[:, None] == classes
    table = weights @ np.hstack([true & predicted, true, predicted]).astype(float)
    hits, rows, calls = np.split(table, 3, axis=1)
    return hits, rows, calls


def decision_counts(
    y_true: IntArray, y_score: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weight of (hits, true, called) per class (`y_true` [N]) or label (`y_true` [N, L]), each [B, K].

    A class is called where its score is the largest (the first of equals), a label where its score is above 0.5.
    Cells of labels that are not known (-1) count neither way.
    """
    if y_true.ndim == 1:
        return class_counts(y_true, y_score, weights)
    true, said = y_true == 1, (y_score > 0.5) & (y_true >= 0)
    table = weights @ np.hstack([true & said, true, said]).astype(float)
    hits, rows, calls = np.split(table, 3, axis=1)
    return hits, rows, calls


def share(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Element-wise quotient; 0 where the denominator is 0, as scikit-learn's `zero_division=0`."""
    result = np.zeros(np.broadcast(part, whole).shape)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def mean_of_parts(
    binary: Callable[[BoolArray, FloatArray, FloatArray], FloatArray],
    y_true: IntArray,
    y_score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """`one_versus_rest` for classes (`y_true` [N]), `labels_mean` for labels (`y_true` [N, L]), [B]."""
    over = labels_mean if y_true.ndim == 2 else one_versus_rest
    return over(binary, y_true, y_score, weights)


def one_versus_rest(
    binary: Callable[[BoolArray, FloatArray, FloatArray], FloatArray],
    y_true: IntArray,
    y_score: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    """`binary(positive [N] bool, score [N], weights)` of class 1, or its mean over the classes if C > 2, [B].

    A class counts in a resample in which both it and the rest have weight; NaN where none has.
    """
    if y_score.shape[1] == 2:
        return binary(y_true == 1, y_score[:, 1], weights)
    columns = [binary(y_true == c, y_score[:, c], weights) for c in range(y_score.shape[1])]
    return mean_of_defined(np.stack(columns, axis=1))
