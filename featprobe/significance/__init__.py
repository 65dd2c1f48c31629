"""What a number is worth: intervals and paired comparisons that resample groups, never images."""

from __future__ import annotations

from featprobe.significance.bootstrap import group_weights
from featprobe.significance.comparison import Comparison, PairDifference, Standing, compare, step_down
from featprobe.significance.intervals import estimates
from featprobe.significance.label_curves import LabelCurves, Run, label_curves
from featprobe.significance.savings import Curve, Saving, saving

__all__ = [
    "Comparison",
    "Curve",
    "LabelCurves",
    "PairDifference",
    "Run",
    "Saving",
    "Standing",
    "compare",
    "estimates",
    "group_weights",
    "label_curves",
    "saving",
    "step_down",
]
