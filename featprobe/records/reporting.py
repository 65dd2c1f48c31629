"""What a report shows; the report room only draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featprobe.records.trusting import TrustPanel
from featprobe.records.values import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd  # half a second at start, and only ReportContent names it


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingMap:
    """A two-dimensional map of one embedding table. `xy`: float64 [N, 2]; `label`: int64 [N] into the names."""

    dataset: str
    title: str
    method: str
    xy: FloatArray
    label: IntArray
    label_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LeakPair:
    """Two images of one leak (see `splitting.Leak`), to be looked at.

    `thumb_a`, `thumb_b`: uint8 [H, W] grey or [H, W, 3] colour. `distance`: 0 but between near copies.
    """

    dataset: str
    kind: str
    id_a: str
    id_b: str
    split_a: str
    split_b: str
    distance: float
    thumb_a: npt.NDArray[np.uint8]
    thumb_b: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class LabelStudy:
    """What systems reach with few labels, on one data set at one level by one probe.

    `kind`: what is varied ("fractions", "shots", ...). `unit`: what the labels count, in the plural ("training groups").
    `systems`: best first, by the mean over the amounts. `points`: one row per system and amount, ascending: system,
    amount, labels, value, ci_low, ci_high, best (can't be told apart from the best with this amount), method. `savings`:
    the first system with each other one: best, other, level, ratio, ci_low, ci_high, needed_best, needed_other, method.
    `estimand`: what the bands are of.
    """

    dataset: str
    level: str
    probe: str
    kind: str
    metric: str
    unit: str
    systems: tuple[str, ...]
    points: pd.DataFrame
    savings: pd.DataFrame
    estimand: str


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """All that a report shows; the report room only draws.

    `estimates`: columns ESTIMATE_COLUMNS plus `system` (see `predictions`). `predictions`: columns of
    predictions.parquet plus `system`, the short name of what is compared (backbone, weights, mode, probe...).
    `comparisons`: one row per pair of systems: dataset, level, metric, a, b, difference (a - b), ci_low,
    ci_high, p_value, p_adjusted, method. `best`: per (dataset, level, metric) the systems that can't be told
    apart from the best. `classes`: dataset -> class names (labels, or the quantity's one name) in the order of
    `y_score_<class>`. `label_studies`: curves of what is reached with few labels. `tasks`: dataset -> kind of target (of TASKS), "classes" where it is not named.
    `schemes`: dataset -> how train and test were parted, in words. `leaks`: pairs of images that leak, in the order in which they are shown.
    `findings`: sentences in words, by data set and level as titled: "NAME", or "NAME, by case". `notes`: what to bear in mind. `warnings`: reasons to distrust numbers, each with its data set's name before it.
    `canaries`: what stands beside a system's own value: dataset, level, metric, system, control (such as "Random
    weights", "Chance"), value, ci_low, ci_high, in the order of systems and controls. `subgroups`: one row per data
    set, level, system, column and subgroup (`significance.SUBGROUP_COLUMNS`), `spreads`: the largest gap of each
    (`significance.SPREAD_COLUMNS`). `trust`: at most one for each
    data set and level. `provenance`: command, versions, seeds, hashes, as label -> text.
    `costs`: dataset, level, system, seconds, device, peak_memory_bytes, trained_parameters, parameters, energy_wh,
    energy_basis, one row per system with a recorded cost.
    """

    title: str
    metric: str
    estimates: pd.DataFrame
    predictions: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    classes: Mapping[str, tuple[str, ...]]
    maps: tuple[EmbeddingMap, ...]
    findings: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]
    tasks: Mapping[str, str] = field(default_factory=dict)
    schemes: Mapping[str, str] = field(default_factory=dict)
    leaks: tuple[LeakPair, ...] = ()
    warnings: tuple[str, ...] = ()
    canaries: pd.DataFrame | None = None
    label_studies: tuple[LabelStudy, ...] = ()
    subgroups: pd.DataFrame | None = None
    spreads: pd.DataFrame | None = None
    trust: tuple[TrustPanel, ...] = ()
    costs: pd.DataFrame | None = None
