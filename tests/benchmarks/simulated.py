"""Test sets whose truth is known, for the simulations of intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.significance.bootstrap import Design, weight_chunks

KINDS = ("single", "clusters", "rare class")
RESAMPLES = 500
EFFECT = 1.6
WEAKER = {50: 1.0, 200: 1.3, 1000: 1.45}
"""The effect of a worse system, so that the power is neither 0 nor 1."""
SHARED, COMMON = 0.5, 0.7
"""Share of the error's variance that rows of a group, and that two systems, have in common."""
POSITIVES = 8
Truth = dict[str, float]


def truth(effect: float) -> Truth:
    """What the metrics are on new rows: scores are normal with unit variance around +- effect / 2."""
    return {
        "accuracy": float(stats.norm.cdf(effect / 2)),
        "AUROC": float(stats.norm.cdf(effect / np.sqrt(2))),
    }


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """One simulated test set: `unit` int [N], `y` int [N], `scores` float64 [S, N], decided at 0."""

    unit: IntArray
    y: IntArray
    scores: FloatArray

    @property
    def right(self) -> AnyArray:
        """Which rows each system gets right, bool [S, N]."""
        return (self.scores > 0) == (self.y == 1)


def draw(rng: np.random.Generator, groups: int, kind: str, effects: Sequence[float]) -> World:
    """A test set of new groups that systems with these effects judge."""
    sizes = rng.integers(1, 11, groups) if kind == "clusters" else np.ones(groups, dtype=np.int64)
    unit = np.repeat(np.arange(groups), sizes)
    if kind == "rare class":
        y = (np.arange(groups) < POSITIVES).astype(np.int64)
    else:
        leaning = np.where(rng.random(groups) < 0.5, 0.8, 0.2) if kind == "clusters" else np.full(groups, 0.5)
        y = (rng.random(len(unit)) < leaning[unit]).astype(np.int64)
        y[:2], y[-2:] = (0, 1), (0, 1)

    def error() -> FloatArray:
        own = rng.standard_normal(len(unit))
        return np.sqrt(SHARED) * rng.standard_normal(groups)[unit] + np.sqrt(1 - SHARED) * own

    both = np.sqrt(COMMON) * error()
    scores = [both + np.sqrt(1 - COMMON) * error() + effect * (y - 0.5) for effect in effects]
    return World(unit, y, np.stack(scores))


def weights_of(groups: int, kind: str, *, whole: bool) -> FloatArray:
    """Featprobe's weights of the groups, [RESAMPLES, G]; in strata where the class is rare."""
    stratum = (np.arange(groups) < POSITIVES).astype(np.int64) * (kind == "rare class")
    design = Design(np.arange(groups), stratum)
    return np.concatenate(list(weight_chunks(design, resamples=RESAMPLES, seed=[groups, whole], whole=whole)))


def inside(interval: tuple[float, float], value: float) -> bool:
    """Whether an interval holds the value; one that does not exist does not."""
    return bool(interval[0] <= value <= interval[1])
