"""Where a system may stand: confidence sets for ranks and for the best, from simultaneous bounds of differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featprobe.records import AnyArray, FloatArray
from featprobe.significance.scales import ZERO


@dataclass(frozen=True, slots=True, eq=False)
class Leads:
    """What S systems are ahead of each other by, larger values being better.

    `ahead` float64 [S, S]: value of the row's system less that of the column's; `error` [S, S]: its standard error, 0
    where no resample moves it; `noise` [S, B]: resampled values less the observed ones.
    """

    ahead: FloatArray
    error: FloatArray
    noise: FloatArray

    def studentised(self, i: int) -> FloatArray:
        """Resampled less observed leads of every system over system `i`, in standard errors, [S, B]; 0 without any."""
        error = np.where(self.error[:, i] > 0, self.error[:, i], np.inf)
        return np.asarray((self.noise - self.noise[i]) / error[:, None])


def leads(values: FloatArray, draws: FloatArray, zero: float = ZERO) -> Leads:
    """From values [S] and draws [S, B] (larger is better); leads that never move by `zero` have no error."""
    noise = draws - values[:, None]
    error = np.zeros((len(values), len(values)))
    for i, own in enumerate(noise):
        moved = noise - own
        moving = np.abs(moved).max(axis=1, initial=0.0) >= zero
        error[moving, i] = moved[moving].std(axis=1, ddof=1)
    return Leads(values[:, None] - values[None, :], error, noise)


def beats(found: Leads, confidence: float, *, enough: bool, zero: float = ZERO) -> AnyArray:
    """Bool [S, S]: whether the row's system is ahead of the column's beyond the bound for all pairs at once.

    The bound is the `confidence` quantile of the largest studentised |difference| over all pairs. A difference without
    variance counts where `enough` groups agree on it.
    """
    largest = np.zeros(found.noise.shape[1])
    for i in range(len(found.ahead)):
        largest = np.maximum(largest, np.abs(found.studentised(i)).max(axis=0))
    bound = float(np.quantile(largest, confidence, method="higher"))
    return np.where(found.error > 0, found.ahead > bound * found.error, (found.ahead >= zero) & enough)


def rank_intervals(ahead_of: AnyArray) -> tuple[AnyArray, AnyArray]:
    """(best, worst possible rank of each system, int [S], 1 is best) from `beats`: all hold together.

    A system's rank is at least 1 + the systems that beat it, and at most S less those that it beats. Mogstad, Romano,
    Shaikh & Wilhelm, Review of Economic Studies 91, 2024, section 3: all ranks are covered at once with the confidence
    of the bound. A system that nothing beats may be first: it belongs to the best set.
    """
    return 1 + ahead_of.sum(axis=0), len(ahead_of) - ahead_of.sum(axis=1)


def mcb(found: Leads, confidence: float) -> tuple[FloatArray, FloatArray]:
    """(low, high) [S] of each system's value less the best of the others: Hsu's constrained intervals.

    Hsu, Multiple Comparisons, 1996, section 4.2 (Edwards & Hsu, JASA 78, 1983), with bootstrap quantiles d_i of the
    largest studentised lead of any other system over system i, one-sided. high = 0: another system is better. low = 0:
    it is the best. The systems with high > 0 hold the true best with at least the confidence; as the bounds are
    one-sided, they are never more than those that no other system `beats`, but for a few resamples at the edge. [0, 0]
    for a system alone.
    """
    count = len(found.ahead)
    bound = np.zeros(count)
    for i in range(count if count > 1 else 0):
        over = np.delete(found.studentised(i), i, axis=0)
        bound[i] = np.quantile(over.max(axis=0), confidence, method="higher")
    high, low = np.zeros(count), np.zeros(count)
    for i in range(count):
        others = np.arange(count) != i
        if others.any():
            high[i] = max(0.0, float((found.ahead[i] + bound[i] * found.error[i])[others].min()))
    # Only a system that may be the best can be what another one is judged against.
    for i in range(count):
        rivals = (high > 0) & (np.arange(count) != i)
        if rivals.any():
            low[i] = min(0.0, float((found.ahead[i] - bound * found.error[i])[rivals].min()))
    return low, high
