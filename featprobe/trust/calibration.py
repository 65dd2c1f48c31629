"""A probability should be the share that comes true: scores recalibrated on rows that the model had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression

from featprobe.errors import ConfigError, nearest
from featprobe.records import AnyArray, FloatArray, IntArray

METHODS: Final = ("temperature", "isotonic")

LEAST: Final = 1e-12
"""Probabilities below this count as this where their logarithm is taken."""

COLDEST: Final = 0.05
HOTTEST: Final = 20.0
"""Temperatures that are tried: beyond them a logit of 1 is certainty, or nothing at all."""


class Calibrator(Protocol):
    """Scores -> scores of the same shape."""

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Probabilities float64 [N, K] (rows sum to 1), for several labels [N, L], recalibrated."""


@dataclass(frozen=True, slots=True, eq=False)
class Temperature:
    """Logits divided by a temperature (Guo et al., ICML 2017, section 4.2): the most probable class stays the same.

    `values`: float64 [1] for classes, [L] with `several` labels, one for each. The logits are the logarithms of the
    probabilities (labels: their log odds), which differ from a model's own by what softmax does not see.
    """

    values: FloatArray
    several: bool

    def __call__(self, scores: FloatArray) -> FloatArray:
        """See `Calibrator`. A probability that is 0 stays 0: a class that training had not."""
        if self.several:
            return np.asarray(expit(_log_odds(scores) / self.values))
        found = np.where(scores > 0, np.log(np.maximum(scores, LEAST)) / self.values[0], -np.inf)
        return np.asarray(softmax(found, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Isotonic:
    """The share that came true as a rising function of the score (Zadrozny and Elkan, KDD 2002).

    `knots`, `heights`: float64 of the function of each column, straight between them and level beyond (two classes:
    of the second alone). With more classes each is fitted against the rest and rows are made to sum to 1; a row of
    zeros becomes uniform. `several`: the columns are labels.
    """

    knots: tuple[FloatArray, ...]
    heights: tuple[FloatArray, ...]
    several: bool

    def __call__(self, scores: FloatArray) -> FloatArray:
        """See `Calibrator`."""
        pairs = list(zip(self.knots, self.heights, strict=True))
        if not self.several and scores.shape[1] == 2:
            second = np.interp(scores[:, 1], *pairs[0])
            return np.column_stack([1 - second, second])
        found = np.column_stack([np.interp(scores[:, k], *pair) for k, pair in enumerate(pairs)])
        if self.several:
            return found
        total = found.sum(axis=1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / scores.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Recalibrated:
    """A fitted model whose scores are recalibrated."""

    inner: Any
    calibrator: Any

    def predict(self, X: FloatArray) -> FloatArray:
        """As the model's, [M, K]."""
        return np.asarray(self.calibrator(self.inner.predict(X)), dtype=np.float64)


def calibrate(
    method: str, scores: FloatArray, y: AnyArray, *, names: Sequence[str] = ()
) -> tuple[Calibrator, dict[str, float], tuple[str, ...]]:
    """(calibrator, what was chosen, notes) from scores of rows that the model had not seen.

    `scores` float64 [M, K]; `y` int [M] in 0..K-1, or for several labels int [M, K] of 0, 1 and -1 (missing).
    `names`: of the labels, for `chosen` and the notes. Temperatures minimise the mean log loss. Raises ConfigError
    for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(
            f"unknown calibration {method!r}", nearest(method, METHODS) or f"known: {', '.join(METHODS)}"
        )
    fit = _temperatures if method == "temperature" else _isotonic
    return fit(scores, y, list(names) or [str(k) for k in range(scores.shape[1])])


def _log_odds(scores: FloatArray) -> FloatArray:
    return np.asarray(logit(np.clip(scores, LEAST, 1 - LEAST)))


def _temperatures(
    scores: FloatArray, y: AnyArray, names: Sequence[str]
) -> tuple[Calibrator, dict[str, float], tuple[str, ...]]:
    if y.ndim == 1:
        value, why = temperature(np.log(np.maximum(scores, LEAST)), y)
        said = (f"temperature: {why}",) if why else ()
        return Temperature(np.array([value]), several=False), {"temperature": value}, said
    odds, values, notes = _log_odds(scores), np.ones(scores.shape[1]), []
    for label, name in enumerate(names):
        known = y[:, label] >= 0
        logits = np.column_stack([np.zeros(int(known.sum())), odds[known, label]])
        values[label], why = temperature(logits, y[known, label])
        if why:
            notes.append(f"label {name}: temperature: {why}")
    chosen = {f"temperature of {name}": float(value) for name, value in zip(names, values, strict=True)}
    return Temperature(values, several=True), chosen, tuple(notes)


def temperature(logits: FloatArray, y: IntArray) -> tuple[float, str]:
    """(the temperature of least mean log loss, what must be said of it) for `logits` [M, K] and `y` int [M].

    The loss is convex in the inverse temperature, so that its slope has one root. 1 where there is no root: no rows,
    or all right with any margin.
    """
    if not len(y):
        return 1.0, "no held-out row knows the label, so that scores are left as they are"
    own = logits[np.arange(len(y)), y]

    def slope(inverse: float) -> float:
        return float((np.sum(softmax(inverse * logits, axis=1) * logits, axis=1) - own).mean())

    if slope(1 / COLDEST) < 0:
        if (own >= logits.max(axis=1)).all():
            return (
                1.0,
                "every held-out row is right, which has no best temperature: scores are left as they are",
            )
        return COLDEST, f"{COLDEST:g} is the lowest that is tried"
    if slope(1 / HOTTEST) > 0:
        return HOTTEST, f"{HOTTEST:g} is the highest that is tried: the scores say little about the labels"
    return 1 / float(brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12, rtol=1e-12)), ""


def log_loss(logits: FloatArray, y: IntArray, value: float) -> float:
    """Mean log loss of `logits` [M, K] at the temperature `value`."""
    cool = logits / value
    return float((logsumexp(cool, axis=1) - cool[np.arange(len(y)), y]).mean())


def _isotonic(
    scores: FloatArray, y: AnyArray, names: Sequence[str]
) -> tuple[Calibrator, dict[str, float], tuple[str, ...]]:
    several = y.ndim == 2
    columns = [1] if not several and scores.shape[1] == 2 else list(range(scores.shape[1]))
    curves, notes = [], []
    for column in columns:
        known = y[:, column] >= 0 if several else np.ones(len(y), dtype=np.bool_)
        truth = (y[known, column] == 1) if several else (y == column)
        if several and len(np.unique(truth)) < 2:
            curves.append((np.array([0.0, 1.0]), np.array([0.0, 1.0])))
            notes.append(
                f"label {names[column]}: isotonic: the held-out rows hold one value, so that scores are left as they are"
            )
            continue
        curves.append(_steps(scores[known, column], truth))
    knots, heights = zip(*curves, strict=True)
    return Isotonic(knots, heights, several), {}, tuple(notes)


def _steps(score: FloatArray, truth: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Knots and heights of scikit-learn's isotonic regression."""
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, truth)
    return np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(
        fitted.y_thresholds_, dtype=np.float64
    )
