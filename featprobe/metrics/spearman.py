"""Whether larger is predicted where larger is true: the correlation of ranks, blind to any monotone scale."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray
from featprobe.registry import METRICS

LEAST = 1e-12
"""Variance of ranks (whose range is 1) below which all ranks are the same but for rounding."""


@METRICS.register("spearman")
@describe("spearman", label="Spearman's rho", lower=-1.0, needs_classes=False, tasks=("continuous",))
def spearman(y_true: FloatArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Pearson's correlation of the weighted midranks of true and predicted values, [B], in [-1, 1].

    NaN where either has one value only.
    """
    total = weights.sum(axis=1)
    a, b = (_centred_ranks(values, weights, total) for values in (y_true, y_score[:, 0]))
    both, first, second = (
        ratio(np.einsum("bn,bn,bn->b", weights, left, right), total)
        for left, right in ((a, b), (a, a), (b, b))
    )
    first, second = (np.where(value > LEAST, value, 0.0) for value in (first, second))
    return np.clip(ratio(both, np.sqrt(first * second)), -1.0, 1.0)


def _centred_ranks(values: FloatArray, weights: FloatArray, total: FloatArray) -> FloatArray:
    """Midranks as shares of the total weight, less their weighted mean (which is one half), [B, N].

    The midrank of a row is the weight below its value and half of that at it: with whole weights the rank
    (less a half) that `scipy.stats.rankdata` gives the repeated rows.
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    below, up_to = (np.searchsorted(ranked, values, side=side) for side in ("left", "right"))
    cumulated = np.zeros((len(weights), len(values) + 1))
    np.cumsum(np.take(weights, order, axis=1), axis=1, out=cumulated[:, 1:])
    middle = (np.take(cumulated, below, axis=1) + np.take(cumulated, up_to, axis=1)) / 2
    return ratio(middle, total[:, None]) - 0.5
