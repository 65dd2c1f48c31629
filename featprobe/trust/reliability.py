"""Does it come true as often as it was said? Scores in bins against the share of rows that were right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.records import AnyArray, FloatArray, IntArray

BINS: Final = 10

ASKED: Final = {
    "two": "the probability of the second class, against the share of rows that are of it",
    "several": "the probability of the most probable class, against the share of rows that are of that class",
    "labels": "the probability of every label, against the share of rows that have it; all labels together",
}
"""What a reliability diagram asks, by kind of target."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """M yes-or-no questions: `said` float64 [M], the probability of yes; `true` bool [M]; `row` int64 [M]; `what`, of ASKED."""

    said: FloatArray
    true: npt.NDArray[np.bool_]
    row: IntArray
    what: str


def asked(y_score: FloatArray, y_true: AnyArray, task: str) -> Asked:
    """The questions that scores [N, C] answer: one for each row, for several labels one for each that is known.

    `task`: "classes", "ordinal" or "multilabel". Rows without a label (-1) ask nothing.
    """
    if task == "multilabel":
        row, label = np.nonzero(y_true >= 0)
        return Asked(y_score[row, label], y_true[row, label] == 1, row.astype(np.int64), "labels")
    row = np.flatnonzero(y_true >= 0).astype(np.int64)
    if y_score.shape[1] == 2:
        return Asked(y_score[row, 1], y_true[row] == 1, row, "two")
    top = y_score[row].argmax(axis=1)
    return Asked(y_score[row, top], y_true[row] == top, row, "several")


def bins_of(said: FloatArray, count: int = BINS) -> IntArray:
    """Bin of each score, int64 [M] from 0 upwards: `count` bins of equal numbers, fewer where scores are equal.

    Equal numbers, not equal widths: where most scores are near 1 equal widths leave bins of a few rows.
    """
    edges = np.unique(np.quantile(said, np.linspace(0, 1, count + 1)[1:-1])) if len(said) else np.empty(0)
    raw = np.searchsorted(edges, said, side="right")
    return np.unique(raw, return_inverse=True)[1].reshape(-1).astype(np.int64)


def shares(values: FloatArray, bins: IntArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of `values` [M] in each bin, float64 [B, K]; NaN where a bin has no weight. `weights` [B, M]."""
    holds = (bins[:, None] == np.arange(int(bins.max(initial=-1)) + 1)).astype(np.float64)
    weight = weights @ holds
    total = weights @ (holds * values[:, None])
    return np.asarray(np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0))
