"""The whole path of logistic regression as a scikit-learn estimator, so that a sweep over C is one certified fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from featprobe.probes.solvers.inputs import need_finite
from featprobe.probes.solvers.logistic_curvature import Rows
from featprobe.probes.solvers.logistic_engine import Task, polish, solve
from featprobe.probes.solvers.logistic_losses import Sigmoids, Softmax
from featprobe.records import AnyArray, FloatArray, IntArray

DEFAULT_CS = tuple(float(C) for C in 10.0 ** np.linspace(-6, 5, 45))
"""The grid of DINOv2's evaluation (Oquab et al. 2023)."""

KEPT = 1e-18
"""Gap of the one model that predicts, where `gap` is larger: other exact solvers then predict the same."""


class LogisticPath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""L2-penalised logistic regression at every C of a grid, each within `gap` of its optimum, proved.

    The objective is scikit-learn's, C * sum_i s_i * log loss_i + |w|^2 / 2 with a free intercept: multinomial for
    more than two classes, binary for two, one regression per label for an indicator matrix. X is not scaled.

    Parameters
    ----------
    Cs : values of C, in any order; results come in this order. Default: 10^linspace(-6, 5, 45).
    gap : duality gap to reach, relative to the objective (see `logistic_certificate` for the proof).
    class_weight : None, "balanced" or {class: weight}, as scikit-learn's.
    n_jobs : threads of the matrix products (None: one; small products stall on more).

    Attributes
    ----------
    coefs_ : float64 [len(Cs), K, D] (two classes: K = 1; labels: K = L)
    intercepts_ : float64 [len(Cs), K or 1]
    gaps_, objectives_ : float64 [len(Cs)], relative gap (labels: the largest) and objective (labels: their sum).
    converged_ : bool [len(Cs)], whether the gap was reached; where not, fit warns (ConvergenceWarning).
    n_iter_ : int [len(Cs)]
    C_ : the value whose model `predict` uses: of `Cs` the nearest to 1, scikit-learn's default, in decades. Which C
        predicts best, no fit can know: `path_decision_function` has all of them, `LinearProbe` chooses.

    """

    def __init__(
        self,
        Cs: Sequence[float] = DEFAULT_CS,
        gap: float = 1e-6,
        class_weight: Mapping[Any, float] | str | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.Cs = Cs
        self.gap = gap
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def fit(self, X: AnyArray, y: AnyArray, sample_weight: AnyArray | None = None) -> LogisticPath:
        """Fit X float [N, D] to y [N] of classes or {0, 1} [N, L]; `sample_weight` [N] of weights >= 0.

        Raises ValueError for values that are not finite (naming rows), a single class, or a grid that is empty or not positive.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, order="C", ensure_all_finite=False
        )
        need_finite(X)
        check_classification_targets(y)
        given = np.asarray(self.Cs, dtype=np.float64).reshape(-1)
        if not len(given) or not (np.isfinite(given) & (given > 0)).all():
            raise ValueError(f"Cs must be positive numbers, got {self.Cs!r}")
        if not self.gap > 0:
            raise ValueError(f"gap must be positive, got {self.gap!r}")
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        loss, start = self._problem(y, weights)
        total = weights.sum()
        centre = weights @ X / total if total > 0 else X.mean(axis=0)
        columns = X.shape[1]
        rows = Rows(X, centre, np.ones(columns))
        task = Task(loss, np.ones(columns), np.concatenate([np.zeros(loss.width * columns), start]))
        rising, place = np.unique(given, return_inverse=True)
        solve(rows, [task], rising.tolist(), gap=self.gap, threads=self.n_jobs or 1)
        self.C_ = float(rising[np.abs(np.log(rising)).argmin()])
        kept = int(np.flatnonzero(rising == self.C_)[0])
        polish(rows, task, kept, self.C_, gap=min(self.gap, KEPT))
        self.coefs_ = np.stack([found.w for found in task.solved])[place]
        self.intercepts_ = np.stack([found.b - found.w @ centre for found in task.solved])[place]
        self.objectives_ = np.array([found.objective.sum() for found in task.solved])[place]
        self.gaps_ = np.array([found.relative for found in task.solved])[place]
        self.n_iter_ = np.array(task.iterations)[place]
        self.converged_ = self.gaps_ <= self.gap
        self._kept = int(np.flatnonzero(place == kept)[0])
        if not self.converged_.all():
            worst = int(self.gaps_.argmax())
            warnings.warn(
                f"{int((~self.converged_).sum())} of {len(given)} values of C were not brought within a relative gap "
                f"of {self.gap:g}; the worst is C = {given[worst]:g} with {self.gaps_[worst]:.1e}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _problem(self, y: AnyArray, weights: FloatArray) -> tuple[Softmax | Sigmoids, FloatArray]:
        """(the loss, the intercepts' start [k]); sets `classes_`."""
        if type_of_target(y).startswith("multilabel"):
            self.classes_ = np.arange(y.shape[1])
            self._labels = True
            if self.class_weight is not None:
                raise ValueError("class_weight is not defined for several labels: give sample_weight")
            truth, known = (y != 0).astype(np.float64), np.repeat(weights[:, None], y.shape[1], axis=1)
            return Sigmoids(truth, known, y.shape[1]), _log_odds(truth, known)
        y = column_or_1d(y, warn=True)
        self._labels = False
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]!r}")
        present = np.unique(codes[weights > 0])
        if len(present) < 2:
            raise ValueError("the rows with a weight above 0 hold one class only: a classifier needs two")
        own = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)
        weights = weights * own[codes]
        if len(self.classes_) == 2:
            truth = codes[:, None].astype(np.float64)
            return Sigmoids(truth, weights[:, None], 1), _log_odds(truth, weights[:, None])
        share = np.bincount(codes, weights=weights, minlength=len(self.classes_)) / max(weights.sum(), 1e-300)
        # A class that weighs nothing has its intercept at minus infinity: any small share is as good a start.
        log = np.log(np.maximum(share, 1e-6))
        return Softmax(codes.astype(np.int64), weights, len(self.classes_)), log - log.mean()

    def path_decision_function(self, X: AnyArray) -> FloatArray:
        """The logits at every C, [len(Cs), M, K] (two classes: K = 1)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False)
        need_finite(X)
        flat = X @ self.coefs_.reshape(-1, X.shape[1]).T
        return np.ascontiguousarray(
            flat.reshape(len(X), *self.intercepts_.shape).transpose(1, 0, 2) + self.intercepts_[:, None, :]
        )

    def decision_function(self, X: AnyArray) -> FloatArray:
        """The logits of the model that predicts: [M] for two classes, else [M, K]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False)
        need_finite(X)
        found = X @ self.coefs_[self._kept].T + self.intercepts_[self._kept]
        return np.asarray(found[:, 0] if len(self.classes_) == 2 and not self._labels else found)

    def predict_proba(self, X: AnyArray) -> FloatArray:
        """Probabilities [M, K]; of labels each its own, [M, L]."""
        decided = self.decision_function(X)
        if self._labels:
            return np.asarray(expit(decided))
        if decided.ndim == 1:
            return np.stack([expit(-decided), expit(decided)], axis=1)
        return np.asarray(softmax(decided, axis=1))

    def predict(self, X: AnyArray) -> AnyArray:
        """Classes [M], or {0, 1} [M, L]."""
        decided = self.decision_function(X)
        if self._labels:
            return (decided > 0).astype(np.int64)
        found: IntArray = (decided > 0).astype(np.int64) if decided.ndim == 1 else decided.argmax(axis=1)
        return np.asarray(self.classes_[found])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _log_odds(truth: FloatArray, weights: FloatArray) -> FloatArray:
    """The intercepts [k] of no embedding at all; a column of one value starts at even odds."""
    positive, total = (truth * weights).sum(axis=0), np.maximum(weights.sum(axis=0), 1e-300)
    share = np.clip(positive / total, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(share / (1 - share)))
