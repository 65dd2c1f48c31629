"""What a report shows; the report room only draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featprobe.records.paper import MeanRanks, Study, Thumbnails
from featprobe.records.trusting import TrustPanel
from featprobe.records.values import FloatArray, IntArray, TextArray

if TYPE_CHECKING:
    import pandas as pd  # half a second at start, and only ReportContent names it


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingMap:
    """A two-dimensional map of one embedding table. `xy`: float64 [N, 2]; `label`: int64 [N] into the names.

    `id`: the images' ids, [N], or [0] where they are not known.
    """

    dataset: str
    title: str
    method: str
    xy: FloatArray
    label: IntArray
    label_names: tuple[str, ...]
    id: TextArray = field(default_factory=lambda: np.empty(0, dtype=np.str_))


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
class CriticalDifference:
    """Systems across data sets at one level: all that a critical-difference diagram draws.

    `systems` [S] and their `mean_rank` [S] (1 is best), best first, over `datasets`; mean ranks further apart than
    `critical` differ (Nemenyi, 5 %). `cliques`: positions in `systems` that a bar joins. `statistic`, `p_value`: Iman
    and Davenport's F of Friedman's test. `chances`: for pairs (a, b) that a is better on a further data set, that both
    are equal within `rope`, that b is (Bayesian signed-rank test); empty where the metric has no known range.
    """

    level: str
    metric: str
    systems: tuple[str, ...]
    mean_rank: FloatArray
    datasets: tuple[str, ...]
    critical: float
    cliques: tuple[tuple[int, ...], ...]
    statistic: float
    p_value: float
    rope: float
    chances: Mapping[tuple[str, str], tuple[float, float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is known beyond intervals and pairs.

    `standings`: dataset, level, metric, system, value, in_best_set, rank_low, rank_high (all ranks at once), behind_low,
    behind_high (value less the best of the others, larger being better), and where asked for reported_low,
    reported_high (an interval as a study computed it, for no verdict). `combined`: over folds and seeds, one row per
    system (`b` is "") and pair: dataset, level, metric, a, b, value, ci_low, ci_high, p_value, p_adjusted, trainings.
    `across`: over data sets. `notes`: what was not combined, and why.
    """

    standings: pd.DataFrame
    combined: pd.DataFrame
    across: tuple[CriticalDifference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """All that a report shows; the report room only draws.

    `estimates`: columns ESTIMATE_COLUMNS plus `system` (see `predictions`). `predictions`: columns of
    predictions.parquet plus `system`, the short name of what is compared (backbone, weights, mode, probe...).
    `comparisons`: one row per pair of systems: dataset, level, metric, a, b, difference (a - b), ci_low,
    ci_high, p_value, p_adjusted, groups_needed, method. `best`: per (dataset, level, metric) the systems that can't be told
    apart from the best. `classes`: dataset -> class names (labels, or the quantity's one name) in the order of
    `y_score_<class>`. `label_studies`: curves of what is reached with few labels. `tasks`: dataset -> kind of target (of TASKS), "classes" where it is not named.
    `schemes`: dataset -> how train and test were parted, in words. `leaks`: pairs of images that leak, in the order in which they are shown.
    `findings`: sentences in words, by data set and level as titled: "NAME", or "NAME, by case". `notes`: what to bear in mind. `warnings`: reasons to distrust numbers, each with its data set's name before it.
    `canaries`: what stands beside a system's own value: dataset, level, metric, system, control (such as "Random
    weights", "Chance"), value, ci_low, ci_high, in the order of systems and controls. `subgroups`: one row per data
    set, level, system, column and subgroup (`significance.SUBGROUP_COLUMNS`), `spreads`: the largest gap of each
    (`significance.SPREAD_COLUMNS`). `trust`: at most one for each data set and
    level. `provenance`: command, versions, seeds, hashes, as label -> text. `study`:
    what was run, for the paper pack. `pictures`: dataset -> small pictures of its images, none where they may not be
    shown. `ranks`: systems ranked over several data sets, of each level. `statistics`: see `Statistics`.
    `costs`: dataset, level, system, seconds, clock ("CPU" or "wall"), device, extraction_seconds, extraction_device,
    peak_memory_bytes, trained_parameters, parameters, energy_wh, energy_basis, one row per system with a recorded cost.
    `strange`: what tells images of other data sets from known ones: inside, outside, system (the embedding), detector,
    metric, value, ci_low, ci_high, ci_method, n_inside, n_outside, n_groups_inside, n_groups_outside.
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
    study: Study | None = None
    pictures: Mapping[str, Thumbnails] = field(default_factory=dict)
    ranks: tuple[MeanRanks, ...] = ()
    trust: tuple[TrustPanel, ...] = ()
    statistics: Statistics | None = None
    costs: pd.DataFrame | None = None
    strange: pd.DataFrame | None = None
