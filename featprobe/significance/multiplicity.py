"""Many comparisons find differences by chance alone: p-values adjusted for their number."""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.records import FloatArray, IntArray
from featprobe.significance.scales import ZERO

ADJUSTMENTS: Final = ("max-t", "holm", "bh")

ADJUSTED_BY: Final = {
    "max-t": "step-down max-t",
    "holm": "Holm's step-down",
    "bh": "Benjamini and Hochberg's false discovery rate",
}
"""How the method of a pair names them."""


def holm(p_values: FloatArray) -> FloatArray:
    """P-values [M] adjusted so that any false finding has at most the stated chance (Holm, Scand. J. Statist. 6, 1979).

    Holds whatever the dependence. NaN stay NaN and count as no hypothesis.
    """
    result, order = _ordered(p_values)
    scaled = p_values[order] * (len(order) - np.arange(len(order)))
    result[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return result


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """P-values [M] adjusted so that at most that share of the findings is false on average (JRSS B 57, 1995).

    Holds for independent or positively dependent tests; it bounds a share of findings, not the chance of one. NaN
    stay NaN.
    """
    result, order = _ordered(p_values)
    scaled = p_values[order] * len(order) / (1 + np.arange(len(order)))
    result[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return result


def step_down(statistics: FloatArray, draws: FloatArray, *, whole: bool = False) -> FloatArray:
    """P-values [M] adjusted over all M hypotheses by step-down max-t (Romano & Wolf, Econometrica 73, 2005).

    `statistics` [M]: |difference| / standard error; `draws` [M, B]: the same of centred resamples. The
    hypotheses' dependence is kept, so the adjustment is smaller than Holm's, and the least p-value that B
    resamples can show, 1 / (B + 1), does not grow with M. `whole`: the draws are all that there can be, the observed one
    among them.
    """
    order = np.argsort(-statistics, kind="stable")
    # Row k: the largest resampled statistic among the hypotheses from rank k on.
    remaining = np.maximum.accumulate(draws[order][::-1], axis=0)[::-1]
    exceeding = (remaining >= statistics[order][:, None] * (1 - ZERO)).sum(axis=1)
    adjusted = np.empty(len(statistics))
    observed = 0 if whole else 1
    adjusted[order] = np.maximum.accumulate((observed + exceeding) / (observed + draws.shape[1]))
    return adjusted


def _ordered(p_values: FloatArray) -> tuple[FloatArray, IntArray]:
    """(NaN for every hypothesis, positions of the known p-values from small to large)."""
    order = np.argsort(p_values, kind="stable")
    return np.full(len(p_values), np.nan), order[np.isfinite(p_values[order])]
