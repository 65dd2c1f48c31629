"""So few groups can show only so much: the least p-value, and the largest difference that there can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from featprobe.significance.bootstrap import HeldOut, Metric, scale_of


def least_p(parts: Sequence[HeldOut], metric: Metric) -> float:
    """The least two-sided p-value that the groups of these folds can show, at most 1.

    2^(1 - groups): all groups agree, each on either side with equal chance. For a metric to which every class has a
    part of its own also 2 / (number of ways in which the classes can be dealt to the groups), the permutation test's
    least: of 6 groups, 2 of one class, a system that knows nothing separates one time in 15, however many groups agree.
    """
    least = 2.0 ** (1 - sum(part.n_units for part in parts))
    if not metric.needs_classes or parts[0].samples.task not in {"classes", "ordinal"}:
        return min(1.0, least)
    ways = 0.0
    for part in parts:
        first = np.unique(part.plain.unit, return_index=True)[1]
        sizes = np.bincount(part.samples.label[first])
        ways += float(gammaln(sizes.sum() + 1) - gammaln(sizes + 1).sum())
    return float(min(1.0, max(least, 2 * np.exp(-ways))))


def reach(parts: Sequence[HeldOut], metric: Metric) -> float:
    """The largest difference of two values of the metric, infinite where an end of its range is."""
    scale = scale_of(parts, metric)
    return scale.upper - scale.lower


def within(low: float, high: float, largest: float) -> tuple[float, float]:
    """The interval of a difference cut to what there can be: nothing that may be true is lost. NaN stay NaN."""
    if not np.isfinite(low + high):
        return low, high
    return max(low, -largest), min(high, largest)
