"""Logistic regression, the probe that the literature reports: linear, calibrated, with one optimum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr
from scipy.special import expit, logit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from featprobe.probes.contract import Fit, Parts, edge_note
from featprobe.records import FloatArray, IntArray
from featprobe.registry import PROBES

BoolArray = npt.NDArray[np.bool_]

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-6, 3.5, 0.5))
PATIENCE: Final = 4
"""Values of C in a row (two decades) with a worse validation loss after which weaker ones are not tried."""

TIE: Final = 1e-3
"""Validation losses (nats) nearer than this are the same: far below what any test set could tell apart."""

SEARCHING: Final = 1e-7
"""Largest gradient of the mean loss at an optimum while C is chosen."""

FINAL: Final = 1e-9
"""The same for the fit that is kept: probabilities then agree with any other exact solver's to 1e-6."""

ITERATIONS: Final = 10_000


@dataclass(slots=True)
class RowSpace:
    """Standardised rows, rotated to the space that they span where there are fewer rows than columns.

    An L2-penalised optimum lies in the span of the rows, and the penalty does not feel a rotation, so that
    the optimum is the same and its search costs O(N) instead of O(D) per row.
    """

    scaler: StandardScaler
    basis: FloatArray | None

    @classmethod
    def of(cls, X: FloatArray) -> tuple[RowSpace, FloatArray]:
        """(the space, the rows in it) of X [N, D]."""
        scaler = StandardScaler()
        rows = scaler.fit_transform(X)
        if len(rows) >= rows.shape[1]:
            return cls(scaler, None), rows
        basis, triangle = qr(rows.T, mode="economic", check_finite=False)
        return cls(scaler, basis), np.ascontiguousarray(triangle.T)

    def place(self, X: FloatArray) -> FloatArray:
        """New rows [M, D] in the space."""
        rows: FloatArray = self.scaler.transform(X)
        return rows if self.basis is None else rows @ self.basis


@dataclass(slots=True)
class Optimum:
    """One training part with the regression fitted to it, each C starting from the one before."""

    space: RowSpace
    rows: FloatArray
    y: IntArray
    model: LogisticRegression

    @classmethod
    def of(cls, X: FloatArray, y: IntArray, tolerance: float) -> Optimum:
        """Scaled and rotated on these rows alone."""
        return cls.on(*RowSpace.of(X), y, tolerance)

    @classmethod
    def on(cls, space: RowSpace, rows: FloatArray, y: IntArray, tolerance: float) -> Optimum:
        """On rows that lie in their space already."""
        model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=ITERATIONS, warm_start=True)
        return cls(space, rows, y, model)

    def fit(self, C: float) -> bool:
        """Whether the optimum for this C was reached."""
        self.model.set_params(C=C)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self.model.fit(self.rows, self.y)
        if not any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
            return True
        # Near the optimum the line search can fail for want of digits: the gradient is the judge.
        return self.gradient() <= 1e-6 * max(1.0, 1 / (C * len(self.y)))

    def gradient(self) -> float:
        """Largest absolute derivative of mean log loss + |w|^2 / (2 C n) where the model stands."""
        model, count = self.model, len(self.y)
        residual = model.predict_proba(self.rows) - (self.y[:, None] == model.classes_)
        if len(model.coef_) == 1:
            residual = residual[:, 1:]
        slope = residual.T @ self.rows / count + model.coef_ / (model.C * count)
        return float(max(np.abs(slope).max(), np.abs(residual.mean(axis=0)).max()))


@dataclass(frozen=True, slots=True, eq=False)
class LogisticModel:
    """The regression on the embeddings as they come: `coef` [K or 1, D], `intercept` [K or 1]."""

    coef: FloatArray
    intercept: FloatArray

    @classmethod
    def of(cls, optimum: Optimum) -> LogisticModel:
        """Rotation and scaling folded into the coefficients."""
        basis, scaler = optimum.space.basis, optimum.space.scaler
        coef = optimum.model.coef_ if basis is None else optimum.model.coef_ @ basis.T
        coef = coef / scaler.scale_
        return cls(coef, optimum.model.intercept_ - coef @ scaler.mean_)

    def predict(self, X: FloatArray) -> FloatArray:
        """Softmax (two classes: the logistic function), [M, K]."""
        logits = X @ self.coef.T + self.intercept
        if logits.shape[1] > 1:
            return np.asarray(softmax(logits, axis=1))
        return np.hstack([expit(-logits), expit(logits)])


@dataclass(frozen=True, slots=True, eq=False)
class LabelsModel:
    """One binary regression per label on the embeddings as they come: `coef` [L, D], `intercept` [L]."""

    coef: FloatArray
    intercept: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """The probability of each label, [M, L]."""
        return np.asarray(expit(X @ self.coef.T + self.intercept))


class Logistic:
    """L2-penalised logistic regression on standardised embeddings, multinomial for more than two classes."""

    name = "logistic"
    describe = (
        "logistic regression (L2, lbfgs) on standardised embeddings, C from 1e-6 to 1e3 in half decades by "
        "validation log loss; several labels: one regression per label, each with its own C"
    )
    tasks = ("classes", "ordinal", "multilabel")

    def fit(
        self,
        X: FloatArray,
        y: IntArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
    ) -> Fit:
        """The smallest C whose mean validation log loss is within TIE of the least, then all rows.

        The grid is walked from strong to weak regularisation and left after PATIENCE values in a row
        that are worse than the best by more than TIE; values that were not tried have no score. `calibration` and `seed` are not needed: the
        loss is a proper score, and the optimum is unique. `y` [N, L]: see `_fit_labels`.
        """
        del calibration, seed
        if y.ndim == 2:
            return _fit_labels(X, y, selection, label_names)
        classes = np.arange(int(y.max()) + 1)
        parts = [(Optimum.of(X[fit], y[fit], SEARCHING), X[held], y[held]) for fit, held in selection]
        rotated = [(optimum, optimum.space.place(held), truth) for optimum, held, truth in parts]
        chosen, scores, failed = _choose(rotated, classes)
        final = Optimum.of(X, y, FINAL)
        notes = (*edge_note(chosen, GRID), *_unconverged(failed, chosen, reached=final.fit(chosen)))
        return LogisticModel.of(final), {"C": chosen}, scores, notes


Held = tuple[Optimum, FloatArray, IntArray]
"""(a training part, held-out rows in its space [M, D], their classes [M])."""


def _choose(parts: Sequence[Held], classes: IntArray) -> tuple[float, dict[float, float], list[float]]:
    """(C, its scores, the values of C at which a fit did not converge)."""
    scores: dict[float, float] = {}
    failed: list[float] = []
    for C in GRID:
        losses = []
        for optimum, held, truth in parts:
            if not optimum.fit(C) and C not in failed:
                failed.append(C)
            losses.append(_loss(optimum, held, truth, classes))
        scores[C] = -float(np.mean(losses))
        tied = max(scores.values()) - TIE
        if len(scores) > PATIENCE and all(score < tied for score in list(scores.values())[-PATIENCE:]):
            break
    return next(c for c, score in scores.items() if score >= max(scores.values()) - TIE), scores, failed


def _unconverged(failed: Sequence[float], chosen: float, *, reached: bool) -> list[str]:
    """Notes of the fits that did not converge."""
    notes = []
    if failed:
        notes.append(
            f"while choosing C the fit did not converge at C = {', '.join(f'{c:g}' for c in failed)}"
        )
    if not reached:
        notes.append(f"the final fit at C = {chosen:g} did not converge in {ITERATIONS} iterations")
    return notes


def _loss(optimum: Optimum, held: FloatArray, truth: IntArray, classes: IntArray) -> float:
    """Log loss of held-out rows over all classes, of which the fitted part may lack some."""
    found = np.zeros((len(held), len(classes)))
    found[:, optimum.model.classes_] = optimum.model.predict_proba(held)
    return float(log_loss(truth, found, labels=classes))


@dataclass(frozen=True, slots=True, eq=False)
class KnownRows:
    """The rows in which a label is known, scaled and rotated once for all labels that are known in the same.

    `parts`: per selection part (space, rows in it, held-out rows in it, positions of both in the table).
    """

    known: BoolArray
    whole: tuple[RowSpace, FloatArray] | None
    parts: list[tuple[RowSpace, FloatArray, FloatArray, IntArray, IntArray]]

    @classmethod
    def of(cls, X: FloatArray, known: BoolArray, selection: Parts) -> KnownRows:
        """`known` bool [N]; parts without a known row on either side are left out."""
        parts = []
        for fit, held in ((fit[known[fit]], held[known[held]]) for fit, held in selection):
            if len(fit) and len(held):
                space, rows = RowSpace.of(X[fit])
                parts.append((space, rows, space.place(X[held]), fit, held))
        return cls(known, RowSpace.of(X[known]) if known.any() else None, parts)

    def fit(self, truth: IntArray) -> tuple[LogisticModel, float, dict[float, float], list[str]] | str:
        """(model, C, scores, notes) of one label, `truth` int [N]; or why there is no regression."""
        own = truth[self.known]
        if self.whole is None:
            return "no training row knows it"
        if not np.ptp(own):
            return f"its {len(own)} known training rows hold one value"
        parts = [
            (Optimum.on(space, rows, truth[fit], SEARCHING), values, truth[held])
            for space, rows, values, fit, held in self.parts
            if np.ptp(truth[fit])
        ]
        if not parts:
            return "no inner fold holds both its values, so that C can't be chosen"
        C, scores, failed = _choose(parts, np.arange(2))
        final = Optimum.on(*self.whole, own, FINAL)
        notes = [*edge_note(C, GRID), *_unconverged(failed, C, reached=final.fit(C))]
        return LogisticModel.of(final), C, scores, notes


def _fit_labels(X: FloatArray, y: IntArray, selection: Parts, names: Sequence[str]) -> Fit:
    """One binary regression per label of `y` [N, L] on the rows where the label is known, each with its own C.

    A label that can't be fitted (one value in training, or no part of `selection` with both values to fit on and
    a row to judge on) predicts its share of positives, and a note says so. The score of a C is the mean over the
    labels that tried it.
    """
    coef, intercept = np.zeros((y.shape[1], X.shape[1])), np.zeros(y.shape[1])
    chosen: dict[str, float] = {}
    scores: dict[float, list[float]] = {}
    notes: dict[int, list[str]] = {}
    patterns, pattern = np.unique(y >= 0, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows = KnownRows.of(X, patterns[:, number], selection)
        for label in np.flatnonzero(pattern.reshape(-1) == number).tolist():
            found = rows.fit(y[:, label])
            if isinstance(found, str):
                own = y[rows.known, label]
                share = float(own.mean()) if len(own) else 0.5
                intercept[label] = logit(share)
                notes[label] = [f"{found}: it always gets the probability {share:.3g}"]
                continue
            model, C, tried, notes[label] = found
            coef[label], intercept[label] = model.coef[0], model.intercept[0]
            chosen[f"C of {names[label]}"] = C
            for value, score in tried.items():
                scores.setdefault(value, []).append(score)
    means = {value: float(np.mean(scores[value])) for value in sorted(scores)}
    said = tuple(f"label {names[label]}: {note}" for label in sorted(notes) for note in notes[label])
    return LabelsModel(coef, intercept), chosen, means, said


PROBES.register("logistic")(Logistic())
