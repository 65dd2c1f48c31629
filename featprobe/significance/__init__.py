"""What a number is worth: intervals and paired comparisons that resample groups, never images."""

from __future__ import annotations

from featprobe.significance.bootstrap import group_weights
from featprobe.significance.comparison import Comparison, PairDifference, Standing, compare, step_down
from featprobe.significance.intervals import estimates

__all__ = [
    "Comparison",
    "PairDifference",
    "Standing",
    "compare",
    "estimates",
    "group_weights",
    "step_down",
]
