"""Probabilities from decision values: Platt's sigmoid or isotonic regression, fitted out of fold."""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from featprobe.errors import ProbeError
from featprobe.records import FloatArray, IntArray

METHODS: Final = ("sigmoid", "isotonic")


class Decided(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose features are decision values: lets scikit-learn calibrate what was computed elsewhere."""

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes

    def fit(self, X: FloatArray, y: IntArray, sample_weight: FloatArray | None = None) -> Decided:
        """Nothing to learn but the classes; weights are for the calibration alone."""
        del X, y, sample_weight
        self.classes_ = np.arange(self.n_classes)
        return self

    def decision_function(self, X: FloatArray) -> FloatArray:
        """The features themselves."""
        return X[:, 0] if self.n_classes == 2 else X

    def predict(self, X: FloatArray) -> IntArray:
        """The class of the largest value, [M]."""
        return np.asarray(X[:, 0] > 0 if self.n_classes == 2 else X.argmax(axis=1)).astype(np.int64)


class Scores:
    """Decision values -> probabilities, as `CalibratedClassifierCV(method=method, ensemble=False)` on the same folds.

    `method` "sigmoid" (Platt 1999, with his smoothed targets) or "isotonic" (Zadrozny and Elkan 2002; steps, which
    need some hundred rows to be smooth). With more than two classes each value is calibrated against the rest and the
    row divided by its sum; a row whose probabilities are all 0 (isotonic) becomes uniform. Values that do not differ
    give the class's share of the rows (sigmoid: nearly, for its smoothed targets) everywhere.
    """

    def __init__(self, method: str = "sigmoid") -> None:
        if method not in METHODS:
            raise ProbeError(f"unknown calibration {method!r}", f"known: {', '.join(METHODS)}")
        self.method = method

    def fit(self, values: FloatArray, labels: IntArray, weights: FloatArray | None = None) -> Scores:
        """On `values` float [N, K], or [N, 1] for two classes, of rows that the machine had not seen; `labels` int [N].

        `weights` [N]: what each row counts (default: one). Raises ProbeError where they do not fit together, are not finite, or a class has no row.
        """
        table = _finite(values)
        classes = max(table.shape[1], 2)
        if len(labels) != len(table) or table.shape[1] == 2:
            raise ProbeError(
                f"decision values {table.shape} and labels {np.shape(labels)} do not fit together",
                "they are [N, K], or [N, 1] for two classes",
            )
        held = np.unique(labels)
        if not np.array_equal(held, np.arange(classes)):
            raise ProbeError(
                "the rows for calibration do not hold every class",
                f"classes {held.tolist()} of {classes} are there; each needs a group that is held out in turn",
                "leave rare classes out with --min-groups N",
            )
        everything = np.arange(len(table))
        # Nothing is fitted before the calibration, so nothing is held out again.
        once = [(everything, everything)]
        self.calibrated_ = CalibratedClassifierCV(
            Decided(classes), method=self.method, cv=once, ensemble=False
        )
        self.calibrated_.fit(table, np.asarray(labels), sample_weight=weights)
        return self

    def predict(self, values: FloatArray) -> FloatArray:
        """Probabilities, float64 [M, K], rows sum to 1; ProbeError for values that are not finite."""
        table = _finite(values)
        if not len(table):
            return np.empty((0, len(self.calibrated_.classes_)))
        return np.asarray(self.calibrated_.predict_proba(table), dtype=np.float64)


def _finite(values: FloatArray) -> FloatArray:
    """[N, K] or [N, 1] float64."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise ProbeError(
            f"{len(bad)} of {len(table)} decision values are not finite", f"the first is row {bad[0]}"
        )
    return table
