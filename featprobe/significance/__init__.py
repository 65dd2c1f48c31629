"""What a number is worth: intervals and paired comparisons that resample groups, never images."""

from __future__ import annotations

from featprobe.significance.bands import Division, divide
from featprobe.significance.bootstrap import group_weights
from featprobe.significance.comparison import Comparison, PairDifference, Standing, compare, step_down
from featprobe.significance.intervals import estimates
from featprobe.significance.label_curves import LabelCurves, Run, label_curves
from featprobe.significance.savings import Curve, Saving, saving
from featprobe.significance.subgroup_rows import (
    SPREAD_COLUMNS,
    SUBGROUP_COLUMNS,
    Spread,
    Subgroup,
    frame_of,
)
from featprobe.significance.subgroups import by_subgroup

__all__ = [
    "SPREAD_COLUMNS",
    "SUBGROUP_COLUMNS",
    "Comparison",
    "Curve",
    "Division",
    "LabelCurves",
    "PairDifference",
    "Run",
    "Saving",
    "Spread",
    "Standing",
    "Subgroup",
    "by_subgroup",
    "compare",
    "divide",
    "estimates",
    "frame_of",
    "group_weights",
    "label_curves",
    "saving",
    "step_down",
]
