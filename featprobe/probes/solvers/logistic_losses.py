"""Log losses as functions of the logits, so that one solver serves many classes, two classes and many labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from featprobe.records import AnyArray, FloatArray

Floats = npt.NDArray[np.floating]
"""float32 while descending, float64 where it decides."""

TINY: Final = 1e-30
"""Numbers in single precision below it count for nothing beside others, and where they get near 1e-38 a processor
takes fifty times as long for them (subnormal numbers): sure rows of a separable set are full of them."""


class Loss(Protocol):
    """A convex loss of logits [k, n], a sum over rows; rows of k coupled (softmax) or not (sigmoids)."""

    width: int
    coupled: bool

    def value(self, logits: FloatArray, *, single: bool = False) -> tuple[FloatArray, Floats]:
        """(losses, probabilities [k, n]): one loss for softmax [1], one for each column of sigmoids [k].

        `logits` [k, n] are double always; `single` asks for exponentials in single precision.
        """

    def residual(self, probabilities: Floats) -> Floats:
        """The derivative of the loss by the logits, [k, n]."""

    def bend(self, probabilities: Floats, moved: Floats) -> Floats:
        """Its second derivative times `moved` [k, n]."""

    def curvature(self, probabilities: Floats) -> FloatArray:
        """The second derivative summed over rows, [k, k]."""

    def bends(self, probabilities: Floats) -> Floats:
        """How much each row bends each column's loss (the second derivative's diagonal), [k, n]."""


def flush(values: Floats) -> Floats:
    """`values` in single precision with 0 for what is below TINY, in place."""
    values[np.abs(values) < TINY] = 0
    return values


@dataclass(eq=False)
class Softmax:
    """Multinomial log loss of `y` int [n] in 0..width-1 with row weights [n]."""

    y: AnyArray
    weights: FloatArray
    width: int
    coupled: bool = True

    def __post_init__(self) -> None:
        self._rows = np.flatnonzero(self.weights)
        self._spot = self.y[self._rows] * len(self.y) + self._rows
        self._single = self.weights.astype(np.float32)

    def _weights(self, like: Floats) -> Floats:
        return self._single if like.dtype == np.float32 else self.weights

    def value(self, logits: FloatArray, *, single: bool = False) -> tuple[FloatArray, Floats]:
        """In margins against the true class: log(1 + sum of exp(other - true)) keeps its digits where a row is sure."""
        # The distance to the largest is taken before digits are dropped: logits of a separable set are large.
        probabilities = (logits - logits.max(axis=0)).astype(np.float32 if single else np.float64, copy=False)
        np.exp(probabilities, out=probabilities)
        if single:
            flush(probabilities)
        total = probabilities.sum(axis=0)
        # What stands beside the true class, summed without it: 1 - p loses all digits where p is near 1.
        true = probabilities.reshape(-1)[self._spot].astype(np.float64)
        beside = probabilities.copy()
        beside.reshape(-1)[self._spot] = 0
        others = beside.sum(axis=0)[self._rows].astype(np.float64)
        probabilities /= total
        losses = np.log1p(others / np.maximum(true, 1e-30))
        if (far := np.flatnonzero(true < 1e-30)).size:  # exp(true - largest) has no digits: the distance has
            row = self._rows[far]
            gone = logits.max(axis=0)[row] - logits.reshape(-1)[self._spot[far]]
            losses[far] = gone + np.log(total[row])
        return np.array([float(losses @ self.weights[self._rows])]), probabilities

    def residual(self, probabilities: Floats) -> Floats:
        """Probability less truth, the true class's from the sum of the others, so that each column sums to 0."""
        found = probabilities.copy()
        found.reshape(-1)[self._spot] = 0
        found.reshape(-1)[self._spot] = -found.sum(axis=0)[self._rows]
        found *= self._weights(found)
        return found

    def bend(self, probabilities: Floats, moved: Floats) -> Floats:
        """In each row weight * p * (moved - mean of moved under p)."""
        held: Floats = probabilities * (moved - (probabilities * moved).sum(axis=0))
        held *= self._weights(held)
        return held

    def curvature(self, probabilities: Floats) -> FloatArray:
        """Sum over rows of weights * (diag(p) - p p')."""
        weighted = probabilities * self._weights(probabilities)
        found = np.diag(weighted.sum(axis=1)) - weighted @ probabilities.T
        return np.asarray(found, dtype=np.float64)

    def bends(self, probabilities: Floats) -> Floats:
        """Weight * p * (1 - p)."""
        found: Floats = probabilities * (1 - probabilities) * self._weights(probabilities)
        return found


@dataclass(eq=False)
class Sigmoids:
    """One binary log loss per column of `y` [n, k] of 0 and 1, with weights [n, k] (0 where a label is missing)."""

    y: AnyArray
    weights: FloatArray
    width: int
    coupled: bool = False

    def __post_init__(self) -> None:
        self._sign = np.ascontiguousarray(1.0 - 2.0 * self.y.T)
        self._double = np.ascontiguousarray(self.weights.T)
        self._single = self._double.astype(np.float32)

    def _weights(self, like: Floats) -> Floats:
        return self._single if like.dtype == np.float32 else self._double

    def value(self, logits: FloatArray, *, single: bool = False) -> tuple[FloatArray, Floats]:
        """log(1 + exp(-margin)); what is returned as probability is that of the wrong answer, with its digits."""
        wrong: Floats = logits * self._sign
        if single:
            wrong = wrong.astype(np.float32)
        losses = np.logaddexp(0, wrong)
        found = np.asarray(expit(wrong))
        if single:
            flush(found)
        return np.einsum("kn,kn->k", losses.astype(np.float64), self._double), found

    def residual(self, probabilities: Floats) -> Floats:
        """Probability of the wrong answer, signed."""
        return probabilities * self._sign.astype(probabilities.dtype) * self._weights(probabilities)

    def bend(self, probabilities: Floats, moved: Floats) -> Floats:
        """In each row weight * p * (1 - p) * moved."""
        held: Floats = probabilities * (1 - probabilities) * self._weights(probabilities) * moved
        return held

    def curvature(self, probabilities: Floats) -> FloatArray:
        """The sums of weights * p * (1 - p), on the diagonal."""
        return np.diag(self.bends(probabilities).sum(axis=1).astype(np.float64))

    def bends(self, probabilities: Floats) -> Floats:
        """Weight * p * (1 - p)."""
        found: Floats = probabilities * (1 - probabilities) * self._weights(probabilities)
        return found

    def only(self, row: int) -> Sigmoids:
        """The loss of one label."""
        return Sigmoids(self.y[:, [row]], self.weights[:, [row]], 1)
