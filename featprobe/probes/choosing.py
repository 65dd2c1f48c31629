"""How the value of a grid is chosen: what held-out rows are judged by, and which value is taken from the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from featprobe.errors import ConfigError, nearest
from featprobe.records import AnyArray, FloatArray

TIE: Final = 1e-3
"""Losses (nats, or a share of the least squared error) nearer than this are the same: below what a test set can tell."""

Score = Callable[[AnyArray, FloatArray], FloatArray]
"""(truth, predicted [G, M, K]) -> a number for each of the G values of the grid, higher is better."""


def _log_loss(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """Minus the mean log loss, as scikit-learn's (probabilities clipped at the last digit); labels: mean over those known."""
    eps = np.finfo(np.float64).eps
    if truth.ndim == 1:
        sure = predicted / np.maximum(predicted.sum(axis=2, keepdims=True), eps)
        return np.asarray(np.log(np.clip(sure[:, np.arange(len(truth)), truth], eps, 1)).mean(axis=1))
    p = np.clip(predicted, eps, 1 - eps)
    found = np.where(truth == 1, np.log(p), np.log1p(-p))
    known = truth >= 0
    if not known.any():
        return np.zeros(len(predicted))  # nothing to judge by: no value is better than another
    per_label = np.where(known, found, 0).sum(axis=1) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(per_label[:, known.any(axis=0)].mean(axis=1))


def _balanced_log_loss(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """As `_log_loss`, but every class (of a label: both its values) that the rows hold weighs the same."""
    if truth.ndim == 1:
        parts = [_log_loss(truth[truth == k], predicted[:, truth == k]) for k in np.unique(truth)]
        return np.asarray(np.mean(parts, axis=0))
    found = []
    for label in range(truth.shape[1]):
        own = truth[:, [label]]
        values = [value for value in (0, 1) if (own == value).any()]
        rows = [(own == value)[:, 0] for value in values]
        parts = [_log_loss(own[row], predicted[:, row][:, :, [label]]) for row in rows]
        found += [np.mean(parts, axis=0)] if parts else []
    return np.asarray(np.mean(found, axis=0)) if found else np.zeros(len(predicted))


def _concordance(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """Lin's concordance correlation coefficient (Biometrics 45, 1989) of [G, M, 1]: 2 cov / (var + var + (difference of means)^2)."""
    found = predicted[:, :, 0]
    centre = found.mean(axis=1)
    shared = ((found - centre[:, None]) * (truth - truth.mean())).mean(axis=1)
    spread = found.var(axis=1) + truth.var() + np.square(centre - truth.mean())
    return np.asarray(2 * shared / np.where(spread > 0, spread, 1))


def _accuracy(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """The share of rows whose largest score is the truth's; labels: the share of known labels on the right side of 1/2."""
    if truth.ndim == 1:
        return np.asarray((predicted.argmax(axis=2) == truth).mean(axis=1))
    known = truth >= 0
    right = ((predicted >= 0.5) == (truth == 1)) & known
    return np.asarray(right.sum(axis=(1, 2)) / max(int(known.sum()), 1))


def _balanced_accuracy(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """The mean over the classes that occur of the share that is found."""
    guessed = predicted.argmax(axis=2)
    return np.asarray(np.mean([(guessed[:, truth == k] == k).mean(axis=1) for k in np.unique(truth)], axis=0))


def _squared_error(truth: AnyArray, predicted: FloatArray) -> FloatArray:
    """Minus the mean squared error of [G, M, 1]."""
    return np.asarray(-np.square(predicted[:, :, 0] - truth).mean(axis=1))


SCORES: Final[dict[str, Score]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "balanced_log_loss": _balanced_log_loss,
    "concordance": _concordance,
    "log_loss": _log_loss,
    "squared_error": _squared_error,
}

PICKS: Final = ("best", "last best", "near best", "one standard error")
"""The first of the best; the last of the best; the simplest within TIE of the best; the simplest within one standard
error over the parts (Breiman et al. 1984, section 3.4.3)."""


def evened(name: str) -> str:
    """The score by which a fit with balanced class weights is judged, where the plain fit is judged by `name`."""
    return "balanced_log_loss" if name == "log_loss" else name


def score(name: str) -> Score:
    """The score of this name, NaN for values of the grid whose predictions are not finite; ConfigError where there is none."""
    if name not in SCORES:
        raise ConfigError(f"unknown score {name!r}", nearest(name, SCORES) or f"known: {', '.join(SCORES)}")
    plain = SCORES[name]

    def judge(truth: AnyArray, predicted: FloatArray) -> FloatArray:
        fitted = np.isfinite(predicted).all(axis=(1, 2))
        found = np.full(len(predicted), np.nan)
        if fitted.any():  # an argmax over NaN would count as a guess
            found[fitted] = plain(truth, predicted[fitted])
        return found

    return judge


def pick(scores: Sequence[FloatArray], how: str, *, relative: bool = False) -> int:
    """The place in the grid that is chosen from `scores`, [G] of each part (-inf or NaN: never taken).

    The grid runs from the simplest model to the least restrained. `relative`: TIE is a share of the best.
    """
    if how not in PICKS:
        raise ConfigError(
            f"unknown way to choose {how!r}", nearest(how, PICKS) or f"known: {', '.join(PICKS)}"
        )
    table = np.asarray(scores, dtype=np.float64)
    means = np.where(np.isfinite(table).all(axis=0), np.nan_to_num(table, neginf=0.0).mean(axis=0), -np.inf)
    best = float(means.max())
    if how == "last best":
        return int(np.flatnonzero(means == best)[-1])
    slack = 0.0
    if how == "near best":
        slack = TIE * (abs(best) if relative else 1.0)
    elif how == "one standard error" and len(table) > 1:
        slack = float(table[:, int(means.argmax())].std(ddof=1) / np.sqrt(len(table)))
    return int(np.flatnonzero(means >= best - slack)[0])
