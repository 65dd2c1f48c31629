"""From predictions to a number: one file per metric, each computed for all bootstrap resamples at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS

Compute = Callable[[IntArray, FloatArray, FloatArray], FloatArray]

DEFAULT_METRICS: Final = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "brier",
)
"""What every results table holds, in the order of the report."""

CHUNK: Final = 2_000_000
"""Weights that are held as float64 at a time: 16 MB, whatever the number of resamples."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric and what a report and the statistics must know about it.

    `label` is for reports. Values lie in [0, `largest(n_classes)`]. `needs_classes`: every class has a part of its own in
    the value, so that a class with few groups must keep its place in a resample (False for a mean over
    rows). `proportion`: a share of right rows (overall or averaged over classes), for which an exact bound
    exists at 0 and 1.
    """

    name: str
    label: str
    higher_is_better: bool
    compute: Compute
    upper: float = 1.0
    needs_classes: bool = True
    proportion: bool = False
    upper_binary: float | None = None

    def largest(self, n_classes: int) -> float:
        """The largest value that the metric can take with `n_classes` classes."""
        return self.upper_binary if n_classes == 2 and self.upper_binary is not None else self.upper

    def __call__(self, y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
        """Value per resample, float64 [B]; NaN where undefined.

        `y_true` int [N], `y_score` float [N, C], `weights` float [B, N] >= 0: row b weighs as in resample b.
        """
        return self.compute(y_true, y_score, weights)


def describe(
    name: str,
    *,
    label: str,
    higher_is_better: bool = True,
    upper: float = 1.0,
    needs_classes: bool = True,
    proportion: bool = False,
    upper_binary: float | None = None,
) -> Callable[[Compute], Metric]:
    """Decorator that turns a function into a Metric; stands below `@METRICS.register(name)`."""

    def wrap(compute: Compute) -> Metric:
        return Metric(name, label, higher_is_better, compute, upper, needs_classes, proportion, upper_binary)

    return wrap


def evaluate(
    name: str,
    y_true: IntArray,
    y_score: FloatArray,
    weights: npt.NDArray[np.floating] | None = None,
) -> FloatArray:
    """The metric `name` for each row of `weights`, float64 [B] ([1] without weights); memory is bounded.

    `y_true` int [N] in 0..C-1, `y_score` float [N, C], `weights` [B, N]. Raises ValueError for other shapes
    or values that are not finite, ConfigError for an unknown name.
    """
    metric = METRICS.get(name)
    truth = np.asarray(y_true, dtype=np.int64)
    score = np.asarray(y_score, dtype=np.float64)
    if score.ndim != 2 or truth.shape != score.shape[:1] or score.shape[1] < 2:
        raise ValueError(f"y_true {truth.shape} and y_score {score.shape} do not fit together")
    if len(truth) and not (truth.min() >= 0 and truth.max() < score.shape[1]):
        raise ValueError("y_true lies outside the columns of y_score")
    if not np.isfinite(score).all():
        raise ValueError("y_score holds values that are not finite")
    table = np.ones((1, len(truth))) if weights is None else np.asarray(weights)
    if table.ndim != 2 or table.shape[1] != len(truth):
        raise ValueError(f"weights {table.shape} do not fit {len(truth)} rows")
    if not len(truth):
        return np.full(len(table), np.nan)
    step = max(1, CHUNK // len(truth))
    parts = [
        metric(truth, score, np.asarray(table[start : start + step], dtype=np.float64))
        for start in range(0, len(table), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def label(name: str) -> str:
    """The metric's name for reports, such as `Balanced accuracy`."""
    return str(METRICS.get(name).label)


def higher_is_better(name: str) -> bool:
    """Whether a larger value is the better one (not so for the Brier score)."""
    return bool(METRICS.get(name).higher_is_better)
