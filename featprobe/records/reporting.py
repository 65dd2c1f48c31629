"""What a report shows; the report room only draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
class ReportContent:
    """All that a report shows; the report room only draws.

    `estimates`: columns ESTIMATE_COLUMNS plus `system` (see `predictions`). `predictions`: columns of
    predictions.parquet plus `system`, the short name of what is compared (backbone, weights, mode, probe...).
    `comparisons`: one row per pair of systems: dataset, level, metric, a, b, difference (a - b), ci_low,
    ci_high, p_value, p_adjusted, method. `best`: per (dataset, level, metric) the systems that can't be told
    apart from the best. `classes`: dataset -> class names in the order of `y_score_<class>`.
    `findings`: sentences in words, per dataset. `notes`: warnings. `provenance`: command, versions, seeds,
    hashes, as label -> text.
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
