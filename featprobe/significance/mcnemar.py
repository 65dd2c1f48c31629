"""Two classifiers on the same independent rows: only the rows on which one of them is wrong can tell them apart."""

from __future__ import annotations

import numpy as np
from scipy import stats

from featprobe.records import AnyArray, IntArray
from featprobe.significance.single import need_single_rows


def mcnemar(only_a: int, only_b: int, *, mid: bool = False) -> float:
    """Two-sided p-value that a row on which one system alone is right falls to either with equal chance.

    `only_a`, `only_b`: rows that a alone, and b alone, gets right. Exact conditional test (McNemar, Psychometrika 12,
    1947), or with `mid` its mid-p version (Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13:91, 2013),
    which is close to its nominal level where the exact test is conservative. Estimand: equal chance to be right on new
    rows. 1 where no row tells them apart.
    """
    total, fewer = only_a + only_b, min(only_a, only_b)
    if not total:
        return 1.0
    two_sided = 2 * float(stats.binom.cdf(fewer, total, 0.5))
    if mid:
        return min(1.0, two_sided - float(stats.binom.pmf(fewer, total, 0.5)))
    return min(1.0, two_sided)


def mcnemar_of_rows(right_a: AnyArray, right_b: AnyArray, unit: IntArray, *, mid: bool = False) -> float:
    """As `mcnemar` for bool [N] of rows that each system gets right.

    Raises ConfigError where a group of `unit` int [N] has several rows.
    """
    need_single_rows(unit, "McNemar's test", "type --test sign-flip, its form for groups (or bootstrap)")
    return mcnemar(int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a)), mid=mid)
