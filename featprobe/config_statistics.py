"""How intervals are made and pairs are tested: the part of a comparison's configuration about statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from featprobe.options import Bounded, option

INTERVALS: Final = ("t", "percentile", "bca", "delong", "wilson")
"""Ways of making intervals, as `featprobe.significance.INTERVALS` (a test compares them)."""

TESTS: Final = ("bootstrap", "delong", "mcnemar", "mcnemar-midp", "sign-flip")
"""Paired tests, as `featprobe.significance.TESTS` (a test compares them)."""

ADJUSTMENTS: Final = ("max-t", "holm", "bh")
"""Adjustments for many pairs, as `featprobe.significance.ADJUSTMENTS` (a test compares them)."""


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions(Bounded):
    """Intervals, paired tests, and their adjustment."""

    interval: str = option(
        "t",
        "how intervals are made: t on a fitting scale, percentile or bca of resampled groups; delong for AUROC, wilson for accuracy",
        choices=INTERVALS,
    )
    test: str = option("bootstrap", "the paired test of two systems", choices=TESTS)
    adjust: str | None = option(
        None,
        "how p-values are adjusted for the number of pairs (default: max-t; holm for mcnemar)",
        choices=ADJUSTMENTS,
    )
    as_reported: bool = option(
        False,
        "also show the intervals as Huang et al. 2024 computed them (about 70 times too narrow), labelled as such",
    )
