"""Decisions moved for balanced accuracy: where probabilities are cut, from rows that the fit had not seen."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import softmax

from featprobe.records import AnyArray, FloatArray, IntArray

SWEEPS: Final = 50
"""Rounds over the classes after which the search ends at the latest; it ends before where a round gains nothing."""

LEAST: Final = 1e-12
"""Probabilities below this are this: a logarithm is taken of them."""

GAIN: Final = 1e-12
"""Balanced accuracies that are nearer than this are the same."""

FARTHEST: Final = 25.0
"""No logarithm of a threshold lies farther from the others': thresholds stay inside 0 and 1."""


def moved(truth: AnyArray, y_score: FloatArray, task: str) -> FloatArray:
    """Thresholds t (see `records.decided`) with the largest balanced accuracy on rows that were held out, float64 [C].

    `truth` int [N] (multilabel int [N, L], -1 missing) and `y_score` [N, C] as in `Predictions`. Two classes: the best
    of all cuts, (1 - t, t). More: the class with the largest p_c / t_c is decided for, and the t are found class by
    class, each at its best given the others, until no class gains (a climb from equal thresholds and one from the
    classes' mean probabilities; the better is taken, and neither is sure to be the best of all). Multilabel: the best
    cut of each label on the rows where it is known; 1/2 where these hold one value. Of equally good cuts the nearest to
    the plain one is taken, in the middle between two scores. Classes that do not occur keep the plain threshold.
    """
    if task == "multilabel":
        return np.array([_label(truth[:, label], y_score[:, label]) for label in range(y_score.shape[1])])
    logs = np.log(np.maximum(y_score, LEAST))
    present = np.unique(truth)
    starts = [np.zeros(y_score.shape[1])]
    if len(present) > 2:
        starts.append(np.log(np.maximum(y_score.mean(axis=0), LEAST)))
    climbed = [_climb(truth, logs, start, present) for start in starts]
    best = max(climbed, key=lambda found: found[1])
    return np.asarray(softmax(best[0]))


def _label(values: AnyArray, score: FloatArray) -> float:
    known = values >= 0
    if len(np.unique(values[known])) < 2:
        return 0.5
    both = np.stack([1 - score[known], score[known]], axis=1)
    return float(moved(values[known].astype(np.int64), both, "classes")[1])


def _climb(
    truth: IntArray, logs: FloatArray, start: FloatArray, present: IntArray
) -> tuple[FloatArray, float]:
    """(logarithms of the thresholds [C], balanced accuracy)."""
    cuts = start.copy()
    # Of two classes one cut says all.
    turn = present[1:] if len(present) == 2 else present
    best = _balanced(truth, logs - cuts)
    for _ in range(SWEEPS):
        before = best
        for k in turn.tolist():
            cut, value = _best_cut(truth, logs - cuts, k, present)
            if value > best + GAIN:
                cuts[k] = np.clip(cuts[k] + cut, cuts.mean() - FARTHEST, cuts.mean() + FARTHEST)
                best = _balanced(truth, logs - cuts)
        if best <= before + GAIN:
            break
    return cuts, best


def _balanced(truth: IntArray, values: FloatArray) -> float:
    right = values.argmax(axis=1) == truth
    return float(np.mean([right[truth == k].mean() for k in np.unique(truth)]))


def _best_cut(truth: IntArray, values: FloatArray, k: int, present: IntArray) -> tuple[float, float]:
    """(how far class k's cut is raised, the balanced accuracy there): each place between two rows is tried."""
    others = values.copy()
    others[:, k] = -np.inf
    rival = others.argmax(axis=1)
    margin = values[:, k] - others.max(axis=1)
    share = np.zeros(values.shape[1])
    share[present] = 1 / (len(present) * np.array([(truth == c).sum() for c in present]))
    # A row above the cut counts where it is of class k, a row below where its rival is right.
    above, below = share[truth] * (truth == k), share[truth] * (rival == truth)
    order = np.argsort(margin, kind="stable")
    line = margin[order]
    worth = np.cumsum(below[order]) + above.sum() - np.cumsum(above[order])
    places = np.flatnonzero(np.diff(line) > 0)
    if not len(places):
        return 0.0, -np.inf
    middle = (line[places] + line[places + 1]) / 2
    top = np.flatnonzero(worth[places] >= worth[places].max() - GAIN)
    nearest = top[np.abs(middle[top]).argmin()]
    return float(middle[nearest]), float(worth[places][nearest])
