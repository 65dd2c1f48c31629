"""What probes that end in a softmax of linear scores share: the model, and the means of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from featprobe.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxModel:
    """softmax(X coef + intercept) over the classes `present` [P] of K: `coef` [D, P], `intercept` [P]."""

    coef: FloatArray
    intercept: FloatArray
    present: IntArray
    classes: int

    def predict(self, X: FloatArray) -> FloatArray:
        """[M, K], 0 for classes that did not occur."""
        result = np.zeros((len(X), self.classes))
        result[:, self.present] = softmax(X @ self.coef + self.intercept, axis=1)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxPath:
    """One model for each value of a grid: `coef` [G, D, P], `intercept` [G, P]."""

    coef: FloatArray
    intercept: FloatArray
    present: IntArray
    classes: int

    def predict(self, X: FloatArray) -> FloatArray:
        """[G, M, K], 0 for classes that did not occur."""
        result = np.zeros((len(self.coef), len(X), self.classes))
        result[:, :, self.present] = softmax(X @ self.coef + self.intercept[:, None], axis=2)
        return result

    def keep(self, place: int) -> SoftmaxModel:
        """The model of one value."""
        return SoftmaxModel(self.coef[place], self.intercept[place], self.present, self.classes)


def class_means(X: FloatArray, y: IntArray) -> tuple[FloatArray, IntArray, IntArray]:
    """(means [P, D], the classes that occur [P], the place of each row's class among them [N])."""
    present, code = np.unique(y, return_inverse=True)
    means = np.array([X[code == place].mean(axis=0) for place in range(len(present))])
    return means, present.astype(np.int64), code.astype(np.int64)


def within_classes(X: FloatArray, means: FloatArray, code: IntArray) -> FloatArray:
    """Each row less its class's mean, [N, D]; differences that are only the mean's rounding are 0."""
    rows = X - means[code]
    rounding = 4 * np.finfo(np.float64).eps * np.abs(X).max(axis=0)
    return np.where(np.abs(rows) <= rounding, 0.0, rows)


def varying(X: FloatArray) -> int:
    """How many columns hold more than one value, at least 1: what averages over columns are taken of."""
    return max(1, int((X[0] != X).any(axis=0).sum()))
