"""What a number is worth: intervals and paired comparisons that resample groups, never images."""

from __future__ import annotations

from featprobe.significance.as_reported import LABEL as AS_REPORTED
from featprobe.significance.as_reported import as_reported
from featprobe.significance.bands import Division, divide
from featprobe.significance.bootstrap import group_weights, rare_parts
from featprobe.significance.comparison import Comparison, PairDifference, Standing, compare
from featprobe.significance.datasets import FEWEST, AcrossDatasets, across_datasets, signed_rank_pairs
from featprobe.significance.intervals import estimates
from featprobe.significance.label_curves import LabelCurves, Run, label_curves
from featprobe.significance.methods import INTERVALS, fits, intervals_by
from featprobe.significance.multiplicity import ADJUSTMENTS, benjamini_hochberg, holm, step_down
from featprobe.significance.pair_tests import TESTS
from featprobe.significance.resampled_t import Resampled, corrected_resampled_t
from featprobe.significance.savings import Curve, Saving, saving
from featprobe.significance.scales import Scale
from featprobe.significance.subgroup_rows import (
    SPREAD_COLUMNS,
    SUBGROUP_COLUMNS,
    Spread,
    Subgroup,
    frame_of,
)
from featprobe.significance.subgroups import by_subgroup

__all__ = [
    "ADJUSTMENTS",
    "AS_REPORTED",
    "FEWEST",
    "INTERVALS",
    "SPREAD_COLUMNS",
    "SUBGROUP_COLUMNS",
    "TESTS",
    "AcrossDatasets",
    "Comparison",
    "Curve",
    "Division",
    "LabelCurves",
    "PairDifference",
    "Resampled",
    "Run",
    "Saving",
    "Scale",
    "Spread",
    "Standing",
    "Subgroup",
    "across_datasets",
    "as_reported",
    "benjamini_hochberg",
    "by_subgroup",
    "compare",
    "corrected_resampled_t",
    "divide",
    "estimates",
    "fits",
    "frame_of",
    "group_weights",
    "holm",
    "intervals_by",
    "label_curves",
    "rare_parts",
    "saving",
    "signed_rank_pairs",
    "step_down",
]
