"""Ranking under many resamples at once: what matters happens at the positives' scores, so rows are counted there."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from featprobe.metrics.counting import BoolArray
from featprobe.records import FloatArray


def by_row(weights: FloatArray) -> FloatArray:
    """The same weights [B, N] laid out so that a row's B weights lie together: turned once for all classes or labels."""
    return np.asfortranarray(weights)


def ranked(
    positive: BoolArray, score: FloatArray, weights: FloatArray, *, halve_ties: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Weight of the positives and of the negatives at the U different scores of positives, rising, [U, B] and [U + 1, B].

    A negative stands at the number of positive scores that it reaches, 0..U: row k of the negatives holds those that
    reach k of them. With `halve_ties` one that equals a positive score counts half as reaching it, half as below it.
    Rows are added up by one sparse matrix, whose product reads the weights of a row (see `by_row`) as one piece.
    """
    levels, place = np.unique(score[positive], return_inverse=True)
    hits, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    reached = np.searchsorted(levels, score[others], side="right")
    share = np.ones(len(others))
    rows, columns, values = (
        [place.reshape(-1), len(levels) + reached],
        [hits, others],
        [np.ones(len(hits)), share],
    )
    if halve_ties:
        below = np.searchsorted(levels, score[others], side="left")
        tied = below < reached
        share[tied] = 0.5
        rows, columns = [*rows, len(levels) + below[tied]], [*columns, others[tied]]
        values = [*values, share[tied]]
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    table = csr_array(entries, shape=(2 * len(levels) + 1, len(score))) @ np.ascontiguousarray(weights.T)
    return table[: len(levels)], table[len(levels) :]


def from_top(counts: FloatArray) -> FloatArray:
    """Row k: the sum of the rows from k on, [K, B]."""
    return np.asarray(np.cumsum(counts[::-1], axis=0)[::-1])
