"""From predictions to a number: one file per metric, each computed for all bootstrap resamples at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import ConfigError
from featprobe.records import TASKS, AnyArray, FloatArray
from featprobe.registry import METRICS

Compute = Callable[[AnyArray, FloatArray, FloatArray], FloatArray]
Upper = float | Callable[[int], float]

DEFAULT_METRICS: Final = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "brier",
)
"""What every results table of classes holds, in the order of the report."""

_DEFAULTS: Final = {
    "classes": DEFAULT_METRICS,
    "ordinal": ("quadratic_kappa", "ordinal_mae", *DEFAULT_METRICS),
    "multilabel": (
        "macro_auroc",
        "macro_average_precision",
        "macro_balanced_accuracy",
        "macro_label_f1",
        "macro_brier",
    ),
    "continuous": ("mae", "r2", "spearman"),
}
_MAIN: Final = {
    "classes": "balanced_accuracy",
    "ordinal": "quadratic_kappa",
    "multilabel": "macro_auroc",
    "continuous": "mae",
}

CHUNK: Final = 2_000_000
"""Weights that are held as float64 at a time: 16 MB, whatever the number of resamples."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric and what a report and the statistics must know about it.

    `label` is for reports. `tasks`: the kinds of target that it judges (of TASKS). Values lie in
    `bounds(n_classes)`, of which either may be infinite; `upper` is a number or a function of the number of
    classes. `needs_classes`: every class or label has a part of its own in the value, so that a class with few
    groups must keep its place in a resample (False for a mean over rows). `proportion`: a share of right rows
    (overall or averaged over classes), for which an exact bound exists at 0 and 1. `decides`: judges decisions (the
    largest score, or scores above 1/2), which thresholds may move.
    """

    name: str
    label: str
    higher_is_better: bool
    compute: Compute
    upper: Upper = 1.0
    needs_classes: bool = True
    proportion: bool = False
    upper_binary: float | None = None
    lower: float = 0.0
    tasks: tuple[str, ...] = ("classes", "ordinal")
    decides: bool = False

    def largest(self, n_classes: int) -> float:
        """The largest value that the metric can take with `n_classes` classes."""
        if n_classes == 2 and self.upper_binary is not None:
            return self.upper_binary
        return self.upper(n_classes) if callable(self.upper) else self.upper

    def bounds(self, n_classes: int) -> tuple[float, float]:
        """The smallest and the largest value that it can take; either may be infinite."""
        return self.lower, self.largest(n_classes)

    def __call__(self, y_true: AnyArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
        """Value per resample, float64 [B]; NaN where undefined.

        `y_true` and `y_score` as in `Predictions` (classes: int [N] and float [N, C]; multilabel: int [N, L]
        with -1 missing, and float [N, L]; continuous: float [N] and [N, 1]), `weights` float [B, N] >= 0: row b
        weighs as in resample b.
        """
        return self.compute(y_true, y_score, weights)


def describe(
    name: str,
    *,
    label: str,
    higher_is_better: bool = True,
    upper: Upper = 1.0,
    needs_classes: bool = True,
    proportion: bool = False,
    upper_binary: float | None = None,
    lower: float = 0.0,
    tasks: tuple[str, ...] = ("classes", "ordinal"),
    decides: bool = False,
) -> Callable[[Compute], Metric]:
    """Decorator that turns a function into a Metric; stands below `@METRICS.register(name)`."""

    def wrap(compute: Compute) -> Metric:
        return Metric(
            name,
            label,
            higher_is_better,
            compute,
            upper,
            needs_classes,
            proportion,
            upper_binary,
            lower,
            tasks,
            decides,
        )

    return wrap


def default_metrics(task: str) -> tuple[str, ...]:
    """What a results table of this kind of target holds, in the order of the report."""
    return _DEFAULTS[task]


def main_metric(task: str) -> str:
    """The metric by which systems are compared where the user asked for none."""
    return _MAIN[task]


def metrics_for(task: str) -> list[str]:
    """Every registered metric that judges this kind of target, sorted by name."""
    return [name for name, metric in METRICS.items() if task in metric.tasks]


def need_suitable(name: str, task: str, *, flag: str = "--metric") -> None:
    """ConfigError where the metric `name` is unknown or does not judge a target of kind `task`; `flag` asked for it."""
    metric: Metric = METRICS.get(name)
    if task not in metric.tasks:
        raise ConfigError(
            f"the metric {name!r} does not judge a target of kind {task!r}",
            f"it judges {' and '.join(metric.tasks)}; for {task} there are: {', '.join(metrics_for(task))}",
            f"type {flag} {main_metric(task)}",
        )


def evaluate(
    name: str,
    y_true: AnyArray,
    y_score: FloatArray,
    weights: npt.NDArray[np.floating] | None = None,
    *,
    task: str | None = None,
) -> FloatArray:
    """The metric `name` for each row of `weights`, float64 [B] ([1] without weights); memory is bounded.

    `y_true` and `y_score` as in `Predictions` for `task` (default: the first that the metric judges), all rows
    labelled; `weights` [B, N]. Raises ValueError for other shapes or values that are not finite, ConfigError for
    an unknown name or a task that the metric does not judge.
    """
    metric: Metric = METRICS.get(name)
    kind = metric.tasks[0] if task is None else task
    need_suitable(name, kind)
    truth = np.asarray(y_true, dtype=np.float64 if kind == "continuous" else np.int64)
    score = np.asarray(y_score, dtype=np.float64)
    _check(kind, truth, score)
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


def _check(task: str, truth: AnyArray, score: FloatArray) -> None:
    """ValueError where truth and score are not what `Predictions` holds for this kind of target."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}")
    rows = truth.shape if task == "multilabel" else truth.shape[:1]
    fits = score.ndim == 2 and truth.ndim == len(rows) and score.shape[: len(rows)] == rows
    if not fits or score.shape[1] < (2 if task in {"classes", "ordinal"} else 1):
        raise ValueError(f"y_true {truth.shape} and y_score {score.shape} do not fit together")
    if task == "continuous" and score.shape[1] != 1:
        raise ValueError(f"y_score has {score.shape[1]} columns, a predicted value has one")
    if not np.isfinite(score).all() or not np.isfinite(truth).all():
        raise ValueError("y_true or y_score holds values that are not finite")
    if task == "continuous" or not truth.size:
        return
    least, most = (-1, 1) if task == "multilabel" else (0, score.shape[1] - 1)
    if truth.min() < least or truth.max() > most:
        raise ValueError("y_true lies outside the columns of y_score")


def label(name: str) -> str:
    """The metric's name for reports, such as `Balanced accuracy`."""
    return str(METRICS.get(name).label)


def higher_is_better(name: str) -> bool:
    """Whether a larger value is the better one (not so for the Brier score)."""
    return bool(METRICS.get(name).higher_is_better)
