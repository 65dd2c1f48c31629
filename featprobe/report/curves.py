"""What ROC curves and confusion matrices show is counted here, apart from how it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from featprobe.records import FloatArray, IntArray

Curve = tuple[FloatArray, FloatArray]
Column = Iterable[Any]
"""A column of a data frame."""

MAX_GRID = 2000


def roc(positive: np.typing.NDArray[np.bool_], score: FloatArray) -> Curve | None:
    """(false positive rate, true positive rate), each [K], one point per distinct score and (0, 0) first.

    `positive` [N], `score` [N], higher is more positive. Ties are one step, so the area is the Mann-Whitney
    statistic with ties counted half. None where a class is absent.
    """
    order = np.argsort(-score, kind="stable")
    hits = positive[order]
    last_of_ties = np.append(np.diff(score[order]) != 0, True)
    true, false = np.cumsum(hits)[last_of_ties], np.cumsum(~hits)[last_of_ties]
    if not len(true) or not true[-1] or not false[-1]:
        return None
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The vertical average (Fawcett 2006, algorithm 3): the mean true positive rate at each false positive rate.

    Every curve is taken just before and just after each jump of any of them, so the area under the average is
    the average of the areas. Above MAX_GRID jumps an even grid of that size stands in for them.
    """
    if len(curves) == 1:
        return curves[0]
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    if len(grid) > MAX_GRID:
        grid = np.linspace(0.0, 1.0, MAX_GRID)
    before = np.mean([_left_limit(curve, grid) for curve in curves], axis=0)
    after = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
    return np.repeat(grid, 2), np.column_stack([before, after]).ravel()


def roc_of_system(rows: pd.DataFrame, classes: Sequence[str], task: str = "classes") -> Curve | None:
    """One system's curve from its rows of predictions (columns fold, y_true, y_score_<class>).

    Two classes: the second is the positive one. More: the vertical average over classes, one against the
    rest. Multilabel: the vertical average over labels, each on the rows where it is known. Several folds: the
    vertical average of the folds' curves; their scores are never pooled.
    """
    by_fold = []
    for _, fold in rows.groupby("fold", sort=True):
        curves = [roc(positive, score) for _, positive, score in questions(fold, classes, task)]
        known = [curve for curve in curves if curve is not None]
        if known:
            by_fold.append(mean_curve(known))
    return mean_curve(by_fold) if by_fold else None


def pr(positive: np.typing.NDArray[np.bool_], score: FloatArray) -> Curve | None:
    """(recall, precision), each [K], one point per distinct score, from the highest on.

    `positive`, `score` as of `roc`. Precision belongs to all recalls above the point before, so the area under
    these steps is the average precision without interpolation. None where nothing is positive.
    """
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(positive[order])[last_of_ties]
    said = np.flatnonzero(last_of_ties) + 1
    if not len(true) or not true[-1]:
        return None
    return true / true[-1], true / said


def at_recall(recall: FloatArray, precision: FloatArray, grid: FloatArray) -> FloatArray:
    """The precision at each recall of `grid` [G]: that of the first point that reaches it."""
    first = np.searchsorted(recall, np.minimum(grid, recall[-1]) - 1e-12, side="left")
    return np.asarray(precision[first])


def pr_of_system(rows: pd.DataFrame, classes: Sequence[str], task: str = "classes") -> Curve | None:
    """One system's precision-recall curve as steps (to the left of each point); averaged as in `roc_of_system`.

    The mean is taken at every recall of any of the curves, so its area is the mean of their average precisions
    (above MAX_GRID recalls: at an even grid).
    """
    by_fold = []
    for _, fold in rows.groupby("fold", sort=True):
        found = [pr(positive, score) for _, positive, score in questions(fold, classes, task)]
        known = [curve for curve in found if curve is not None]
        if known:
            by_fold.append(_mean_steps(known))
    return _mean_steps(by_fold) if by_fold else None


def _mean_steps(curves: Sequence[Curve]) -> Curve:
    if len(curves) == 1:
        return curves[0]
    grid = np.unique(np.concatenate([recall for recall, _ in curves]))
    grid = grid[grid > 0]
    if len(grid) > MAX_GRID:
        grid = np.linspace(1 / MAX_GRID, 1.0, MAX_GRID)
    return grid, np.mean([at_recall(*curve, grid) for curve in curves], axis=0)


def questions(
    rows: pd.DataFrame, classes: Sequence[str], task: str
) -> Iterator[tuple[IntArray, np.typing.NDArray[np.bool_], FloatArray]]:
    """(positions in `rows`, positive, score), each [M], of each yes-or-no question that the rows answer."""
    every = np.arange(len(rows), dtype=np.int64)
    if task == "multilabel":
        marks = label_marks(rows["y_true"], len(classes))
        for number, name in enumerate(classes):
            known = marks[:, number] >= 0
            yield (
                every[known],
                marks[known, number] == 1,
                rows[f"y_score_{name}"].to_numpy(dtype=np.float64)[known],
            )
        return
    truth = rows["y_true"].to_numpy(dtype=str)
    for name in classes[1:] if len(classes) == 2 else classes:
        yield every, truth == name, rows[f"y_score_{name}"].to_numpy(dtype=np.float64)


def label_marks(y_true: Column, count: int) -> IntArray:
    """int64 [N, L] of the column y_true of a multilabel data set, "0|1|": -1 where a label is not known."""
    rows = [[int(mark or -1) for mark in str(words).split("|")] for words in y_true]
    return np.array(rows, dtype=np.int64).reshape(-1, count)


def values(y_true: Column) -> FloatArray:
    """float64 [N] of the column y_true of a continuous data set: NaN where it is not known."""
    return np.array([float(word or "nan") for word in y_true], dtype=np.float64)


def confusion(rows: pd.DataFrame, classes: Sequence[str]) -> IntArray:
    """int64 [C, C]: rows true, columns most probable class, summed over the folds; unlabelled rows left out."""
    index = {name: i for i, name in enumerate(classes)}
    truth = np.array([index.get(name, -1) for name in rows["y_true"]], dtype=np.int64)
    said = rows[[f"y_score_{name}" for name in classes]].to_numpy(dtype=np.float64).argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth[truth >= 0], said[truth >= 0]), 1)
    return counts


def _left_limit(curve: Curve, grid: FloatArray) -> FloatArray:
    """The curve's height just before each grid point (0 before the first): where it jumps, the lower end."""
    fpr, tpr = curve
    mirrored = np.interp(-grid, -fpr[::-1], tpr[::-1])
    return np.where(grid <= 0, 0.0, mirrored)
