"""DeLong's areas for every kind of target that AUROC judges: two classes, several, or several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe.records import AnyArray, FloatArray
from featprobe.significance.bootstrap import HeldOut
from featprobe.significance.delong import Areas, clustered_delong, contributions, delong, perfect_floor

AREAS: Final = ("auroc", "macro_auroc")
"""The metrics that are areas under the ROC curve."""


def areas_of(part: HeldOut, scores: Sequence[FloatArray]) -> Areas:
    """Areas of S systems on one fold as the metric has them, with their covariance over groups.

    `scores`: per system [N, C] in the order of `part.samples`. Two classes: DeLong's form, or Obuchowski's where a
    group has several rows. More classes, or labels: the mean of the areas, whose covariance is that of the groups'
    mean placements (infinitesimal jackknife over groups, G / (G - 1)).
    """
    binary = list(_one_versus_rest(part))
    if len(binary) == 1:
        rows, positive, column = binary[0]
        own = np.stack([score[rows, column] for score in scores])
        if single_rows(part):
            return delong(positive, own)
        return clustered_delong(positive, own, part.plain.unit[rows])
    influence = area_contributions(part, scores)
    groups = part.n_units
    covariance = influence @ influence.T * (groups / max(1, groups - 1))
    return Areas(_values(part, scores), ((covariance, part.n_units - 1),))


def area_contributions(part: HeldOut, scores: Sequence[FloatArray]) -> FloatArray:
    """What each group adds to the (mean) area of each system beyond its share, [S, G]; rows sum to 0."""
    found = []
    for rows, positive, column in _one_versus_rest(part):
        own = np.stack([score[rows, column] for score in scores])
        values = np.zeros((len(scores), part.n_units))
        inside = contributions(positive, own, part.plain.unit[rows])
        values[:, : inside.shape[1]] = inside
        found.append(values)
    return np.asarray(np.mean(found, axis=0)) if found else np.full((len(scores), part.n_units), np.nan)


def area_floor(part: HeldOut, confidence: float) -> float:
    """Lower bound of an area that is 1 (see `perfect_floor`); NaN where it is a mean of several areas."""
    binary = list(_one_versus_rest(part))
    if len(binary) != 1:
        return float("nan")
    rows, positive, _ = binary[0]
    return perfect_floor(positive, part.plain.unit[rows], confidence)


def single_rows(part: HeldOut) -> bool:
    """Whether every group has one row."""
    return part.n_units == len(part.samples)


def _values(part: HeldOut, scores: Sequence[FloatArray]) -> FloatArray:
    found = []
    for rows, positive, column in _one_versus_rest(part):
        own = np.stack([score[rows, column] for score in scores])
        found.append(delong(positive, own).value)
    return np.asarray(np.mean(found, axis=0)) if found else np.full(len(scores), np.nan)


def _one_versus_rest(part: HeldOut) -> list[tuple[AnyArray, AnyArray, int]]:
    """(rows, bool per row, column of the score) of each area that the metric averages, as far as both sides have rows."""
    label, names = part.samples.label, part.samples.label_names
    everywhere = np.arange(len(part.samples))
    found = []
    if part.samples.task == "multilabel":
        for column in range(len(names)):
            rows = np.flatnonzero(label[:, column] >= 0)
            found.append((rows, label[rows, column] == 1, column))
    else:
        columns = [1] if len(names) == 2 else range(len(names))
        found = [(everywhere, label == column, column) for column in columns]
    return [item for item in found if item[1].any() and not item[1].all()]
