"""Is a system better across data sets: Friedman's test, critical differences, and a Bayesian signed-rank test.

The data set is the unit here: what is asked is whether the order would hold on further data sets of this kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from scipy import stats
from scipy.special import gammaln

from featprobe.records import FloatArray

FEWEST: Final = 3
"""Fewer data sets can't show anything about data sets."""

SAMPLES: Final = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class AcrossDatasets:
    """Mean ranks [S] (1 is best) over D data sets, Friedman's test, and Nemenyi's critical difference.

    `statistic` and `p_value` are of Iman and Davenport's F, which is less conservative than Friedman's chi-square.
    `critical`: mean ranks further apart than this differ (family-wise at 5 %). `cliques`: maximal runs of systems, by
    position in the order of mean rank, that can't be told apart: the bars of a critical-difference diagram.
    """

    mean_rank: FloatArray
    datasets: int
    statistic: float
    p_value: float
    critical: float
    cliques: tuple[tuple[int, ...], ...]


def across_datasets(values: FloatArray, *, level: float = 0.05) -> AcrossDatasets:
    """From `values` float64 [D, S], larger is better, one row per data set.

    Friedman, JASA 32, 1937; Iman & Davenport, Communications in Statistics 9, 1980; Nemenyi, 1963, as in Demsar, JMLR
    7, 2006, section 3.2.2. Ties share their mean rank. Estimand: the systems' order on further data sets of which these
    are a sample. Raises ValueError where there are fewer than FEWEST data sets, or fewer than 2 systems.
    """
    count, systems = values.shape
    if count < FEWEST or systems < 2:
        raise ValueError(f"{count} data sets and {systems} systems: {FEWEST} and 2 are the least")
    ranks = stats.rankdata(-values, axis=1)
    mean_rank = ranks.mean(axis=0)
    # With ties, Friedman's chi-square over the ranks' own variance (Conover 1999, section 5.8).
    spread = float(((ranks - (systems + 1) / 2) ** 2).sum()) / (count * (systems - 1))
    between = count * float(((mean_rank - (systems + 1) / 2) ** 2).sum())
    chi_square = between / spread if spread > 0 else 0.0
    statistic, p_value = _iman_davenport(chi_square, count, ranks)
    q = float(stats.studentized_range.ppf(1 - level, systems, np.inf)) / np.sqrt(2)
    critical = float(q * np.sqrt(systems * (systems + 1) / (6 * count)))
    return AcrossDatasets(mean_rank, count, statistic, p_value, critical, cliques(mean_rank, critical))


def _iman_davenport(chi_square: float, count: int, ranks: FloatArray) -> tuple[float, float]:
    """(F, p) from `ranks` [D, S]; the order is the same on all data sets where F is infinite, which has its exact chance.

    That of one data set's ranks in all their different orders, of which ties leave fewer.
    """
    systems = ranks.shape[1]
    rest = count * (systems - 1) - chi_square
    if rest <= 1e-9:
        tied = np.unique(ranks[0], return_counts=True)[1]
        orders = gammaln(systems + 1) - float(gammaln(tied + 1).sum())
        return float("inf"), float(np.exp(-(count - 1) * orders))
    statistic = (count - 1) * chi_square / rest
    return statistic, float(stats.f.sf(statistic, systems - 1, (systems - 1) * (count - 1)))


def cliques(mean_rank: FloatArray, critical: float) -> tuple[tuple[int, ...], ...]:
    """Maximal sets of systems (positions, best first) within `critical` of each other; of two or more systems."""
    order = np.argsort(mean_rank, kind="stable")
    found: list[tuple[int, ...]] = []
    for start in range(len(order)):
        run = order[start:][mean_rank[order[start:]] - mean_rank[order[start]] <= critical]
        members = tuple(int(position) for position in run)
        if len(members) > 1 and not (found and set(members) <= set(found[-1])):
            found.append(members)
    return tuple(found)


def bayesian_signed_rank(
    differences: FloatArray, *, rope: float = 0.01, seed: int = 0
) -> tuple[float, float, float]:
    """(chance that a is better, that they are equal for practical ends, that b is) from differences a - b [D].

    Benavoli, Corani, Demsar & Zaffalon, JMLR 18(77), 2017, section 4.2 (Benavoli et al., ICML 2014): Dirichlet weights
    on the D differences and one prior observation at 0 of weight 1/2; the region of practical equivalence is
    [-rope, rope]. Each of SAMPLES draws of the weights w gives sum_ij w_i w_j of the pairs whose mean lies beyond either
    end; the three chances are how often each of the three sums is the largest. Estimand: the median difference on
    further data sets.
    """
    z = np.concatenate([[0.0], differences])
    pairs = z[:, None] + z[None, :]
    weights = np.random.default_rng(seed).dirichlet([0.5, *[1.0] * len(differences)], SAMPLES)
    regions = [pairs > 2 * rope, np.abs(pairs) <= 2 * rope, pairs < -2 * rope]
    sums = np.stack(
        [np.einsum("ki,ij,kj->k", weights, r.astype(float), weights, optimize=True) for r in regions]
    )
    winner = np.bincount(sums.argmax(axis=0), minlength=3) / SAMPLES
    return float(winner[0]), float(winner[1]), float(winner[2])


def signed_rank_pairs(
    values: FloatArray, *, rope: float = 0.01, seed: int = 0
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """`bayesian_signed_rank` of all pairs of the S systems in `values` [D, S], larger is better."""
    return {
        (i, j): bayesian_signed_rank(values[:, i] - values[:, j], rope=rope, seed=seed)
        for i, j in combinations(range(values.shape[1]), 2)
    }
