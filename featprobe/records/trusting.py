"""What a report shows of trust: how scores, abstention and prediction sets of one data set turned out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featprobe.records.values import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd  # half a second at start, and only TrustPanel names it


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """One system's scores in K bins: mean score `said`, share that came `true` with its band, and `rows`. All [K].

    `low`, `high`: NaN where a bin has no band.
    """

    system: str
    said: FloatArray
    true: FloatArray
    low: FloatArray
    high: FloatArray
    rows: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class SelectiveCurve:
    """One system's `risk` among the rows that it is surest of, with its band, at each `coverage`. All [G]."""

    system: str
    coverage: FloatArray
    risk: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class TrustPanel:
    """One data set at one level.

    `asked`: what a reliability diagram asks here. `areas`: columns system, measure, value, ci_low, ci_high,
    ci_method. `sets`: columns system, rule, nominal, what ("coverage", "size", "empty", or "coverage of CLASS"),
    value, ci_low, ci_high, n_groups, ci_method; empty where there are no sets. `bands`, `promise`: sentences on how
    bands and sets were made. `meanings`: measure of `areas` -> what it is.
    """

    dataset: str
    level: str
    asked: str
    reliability: tuple[ReliabilityCurve, ...]
    selective: tuple[SelectiveCurve, ...]
    areas: pd.DataFrame
    sets: pd.DataFrame
    bands: str
    promise: str
    meanings: dict[str, str] = field(default_factory=dict)
