"""The linear support vector machine: a margin instead of a likelihood, with probabilities by Platt scaling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featprobe.errors import ProbeError
from featprobe.probes.contract import OWN, Fit, Parts, Rule, edge_note
from featprobe.probes.weighing import is_balanced, row_weights
from featprobe.records import FloatArray, IntArray
from featprobe.registry import PROBES

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-5, 1.5, 0.5))
TOLERANCE: Final = 1e-5

GRAM_ROWS: Final = 15_000
"""Training rows up to which the Gram matrix is held (1.8 GB); beyond, libsvm computes it as it goes."""


@dataclass(slots=True)
class Margin:
    """One training part, its Gram matrix computed once for all values of C.

    scikit-learn's SVC on the precomputed linear kernel has the optimum of `kernel="linear"`; the matrix
    product is what makes it quick.
    """

    scaler: StandardScaler
    rows: FloatArray
    y: IntArray
    gram: FloatArray | None
    lean: bool
    weights: str | None = None
    model: SVC | None = None

    @classmethod
    def of(cls, X: FloatArray, y: IntArray, weights: str | None = None) -> Margin:
        """Scaled on these rows alone; `weights`: scikit-learn's `class_weight`."""
        scaler = StandardScaler()
        rows = scaler.fit_transform(X)
        lean = len(rows) > GRAM_ROWS
        return cls(scaler, rows, y, None if lean else rows @ rows.T, lean, weights)

    def fit(self, C: float) -> Margin:
        """Itself, with the machine for this C."""
        kind, features = ("linear", self.rows) if self.lean else ("precomputed", self.gram)
        machine = SVC(C=C, kernel=kind, tol=TOLERANCE, cache_size=500, class_weight=self.weights)
        self.model = machine.fit(features, self.y)
        return self

    def kernel(self, X: FloatArray) -> FloatArray:
        """What the machine asks of new rows: inner products [M, N], or the scaled rows [M, D] without Gram."""
        rows: FloatArray = self.scaler.transform(X)
        return rows if self.lean else rows @ self.rows.T

    def decide(self, kernel: FloatArray) -> FloatArray:
        """Decision values, [M] for two classes and else [M, K]."""
        assert self.model is not None
        return np.asarray(self.model.decision_function(kernel))

    def predict(self, kernel: FloatArray) -> IntArray:
        """Classes, [M]."""
        assert self.model is not None
        return np.asarray(self.model.predict(kernel))


class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose features are decision values: lets scikit-learn calibrate what we computed."""

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes

    def fit(self, X: FloatArray, y: IntArray) -> Given:
        """Nothing to learn but the classes."""
        del X, y
        self.classes_ = np.arange(self.n_classes)
        return self

    def decision_function(self, X: FloatArray) -> FloatArray:
        """The features themselves."""
        return X[:, 0] if self.n_classes == 2 else X

    def predict(self, X: FloatArray) -> IntArray:
        """The class of the largest value, [M]."""
        return np.asarray(X[:, 0] > 0 if self.n_classes == 2 else X.argmax(axis=1)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class SVMModel:
    """The machine fitted on all rows, and the sigmoids fitted out of fold."""

    margin: Margin
    sigmoids: CalibratedClassifierCV

    def predict(self, X: FloatArray) -> FloatArray:
        """Platt's probabilities; with more classes each against the rest, normalised, [M, K]."""
        decided = self.margin.decide(self.margin.kernel(X))
        return np.asarray(self.sigmoids.predict_proba(decided.reshape(len(X), -1)), dtype=np.float64)


class SVM:
    """Linear SVC on standardised embeddings; probabilities from Platt scaling out of fold, by group."""

    name = "svm"
    tasks = ("classes", "ordinal")
    weighs = True
    describe = (
        "linear SVM on standardised embeddings, C from 1e-5 to 10 in half decades by validation balanced "
        "accuracy, probabilities by Platt scaling fitted out of fold by group inside the training data"
    )

    def fit(
        self,
        X: FloatArray,
        y: IntArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """C with the best mean validation balanced accuracy (ties: the smaller), then all rows.

        The sigmoids are fitted to decision values of rows that the machine had not seen (Platt 1999; as
        `CalibratedClassifierCV(method="sigmoid", ensemble=False)` on `calibration`). `seed` is not needed:
        the optimum is unique. The option `class_weight` "balanced" weighs the classes the same, in the machine and in
        the sigmoids. Raises ProbeError where a part of `calibration` lacks a class.
        """
        del seed, label_names, task
        weights = "balanced" if is_balanced(rule.options) else None
        totals = np.zeros(len(GRID))
        for fit, held in selection:
            totals += _balanced_accuracies(X, y, fit, held, weights)
        scores = dict(zip(GRID, (totals / len(selection)).tolist(), strict=True))
        chosen = max(scores, key=scores.__getitem__)
        sigmoids = _platt(X, y, chosen, calibration, weights)
        margin = Margin.of(X, y, weights).fit(chosen)
        margin.gram = None
        # Once every row is a support vector at its bound, a smaller C gives the same machine: no edge then.
        same = scores[GRID[0]] == scores[GRID[1]]
        notes = () if chosen == GRID[0] and same else edge_note(chosen, GRID)
        return SVMModel(margin, sigmoids), {"C": chosen}, scores, notes


def _balanced_accuracies(
    X: FloatArray, y: IntArray, fit: IntArray, held: IntArray, weights: str | None
) -> FloatArray:
    """Balanced accuracy on the held-out rows for each C of the grid; a class that fit lacks counts as missed."""
    if len(np.unique(y[fit])) < 2:
        raise ProbeError(
            "a part of the training data holds one class only, so that C can't be chosen on it",
            f"{len(fit)} rows of class number {y[fit][0]}",
            "use fewer folds (--folds K), or leave rare classes out (--min-groups N)",
        )
    margin = Margin.of(X[fit], y[fit], weights)
    kernel = margin.kernel(X[held])
    present = np.unique(y[held])
    return np.array(
        [
            recall_score(
                y[held], margin.fit(C).predict(kernel), labels=present, average="macro", zero_division=0.0
            )
            for C in GRID
        ]
    )


def _platt(
    X: FloatArray, y: IntArray, C: float, calibration: Parts, weights: str | None
) -> CalibratedClassifierCV:
    """scikit-learn's sigmoids on out-of-fold decision values."""
    n_classes = int(y.max()) + 1
    values: list[FloatArray] = []
    truth: list[IntArray] = []
    for fit, held in calibration:
        if len(np.unique(y[fit])) < n_classes:
            raise ProbeError(
                "a fold for Platt scaling lacks a class in its training part",
                f"{len(np.unique(y[fit]))} of {n_classes} classes are there",
                "leave rare classes out with --min-groups N",
            )
        margin = Margin.of(X[fit], y[fit], weights).fit(C)
        values.append(margin.decide(margin.kernel(X[held])).reshape(len(held), -1))
        truth.append(y[held])
    if not values or len(np.unique(np.concatenate(truth))) < n_classes:
        raise ProbeError(
            "the rows for Platt scaling do not hold every class",
            "each class needs a group that is held out in turn",
            "leave rare classes out with --min-groups N",
        )
    given = FrozenEstimator(Given(n_classes).fit(values[0], truth[0]))
    everything = np.arange(sum(map(len, truth)))
    once = [(everything, everything)]  # nothing is fitted before the sigmoids, so nothing is held out again
    sigmoids = CalibratedClassifierCV(given, method="sigmoid", cv=once, ensemble=False)
    found = np.concatenate(truth)
    share = row_weights(found) if weights else None
    with warnings.catch_warnings():  # decision values are given: in them there is nothing left to weigh
        warnings.filterwarnings("ignore", message="Since FrozenEstimator does not appear to accept")
        return sigmoids.fit(np.concatenate(values), found, sample_weight=share)


PROBES.register("svm")(SVM())
