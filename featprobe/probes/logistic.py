"""Logistic regression, the probe that the literature reports: linear, calibrated, with one optimum."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import qr
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from featprobe.probes.contract import Fit, Parts, edge_note
from featprobe.records import FloatArray, IntArray
from featprobe.registry import PROBES

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
        space, rows = RowSpace.of(X)
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

    def predict_proba(self, X: FloatArray) -> FloatArray:
        """Softmax (two classes: the logistic function), [M, K]."""
        logits = X @ self.coef.T + self.intercept
        if logits.shape[1] > 1:
            return np.asarray(softmax(logits, axis=1))
        return np.hstack([expit(-logits), expit(logits)])


class Logistic:
    """L2-penalised logistic regression on standardised embeddings, multinomial for more than two classes."""

    name = "logistic"
    describe = (
        "logistic regression (L2, lbfgs) on standardised embeddings, C from 1e-6 to 1e3 in half decades by "
        "validation log loss"
    )

    def fit(self, X: FloatArray, y: IntArray, *, selection: Parts, calibration: Parts, seed: int) -> Fit:
        """The smallest C whose mean validation log loss is within TIE of the least, then all rows.

        The grid is walked from strong to weak regularisation and left after PATIENCE values in a row
        that are worse than the best by more than TIE; values that were not tried have no score. `calibration` and `seed` are not needed: the
        loss is a proper score, and the optimum is unique.
        """
        del calibration, seed
        classes = np.arange(int(y.max()) + 1)
        parts = [(Optimum.of(X[fit], y[fit], SEARCHING), X[held], y[held]) for fit, held in selection]
        rotated = [(optimum, optimum.space.place(held), truth) for optimum, held, truth in parts]
        scores: dict[float, float] = {}
        failed: list[float] = []
        for C in GRID:
            losses = []
            for optimum, held, truth in rotated:
                if not optimum.fit(C) and C not in failed:
                    failed.append(C)
                losses.append(_loss(optimum, held, truth, classes))
            scores[C] = -float(np.mean(losses))
            tied = max(scores.values()) - TIE
            if len(scores) > PATIENCE and all(score < tied for score in list(scores.values())[-PATIENCE:]):
                break
        chosen = next(c for c, score in scores.items() if score >= max(scores.values()) - TIE)
        final = Optimum.of(X, y, FINAL)
        notes = list(edge_note(chosen, GRID))
        if failed:
            notes.append(
                f"while choosing C the fit did not converge at C = {', '.join(f'{c:g}' for c in failed)}"
            )
        if not final.fit(chosen):
            notes.append(f"the final fit at C = {chosen:g} did not converge in {ITERATIONS} iterations")
        return LogisticModel.of(final), {"C": chosen}, scores, tuple(notes)


def _loss(optimum: Optimum, held: FloatArray, truth: IntArray, classes: IntArray) -> float:
    """Log loss of held-out rows over all classes, of which the fitted part may lack some."""
    found = np.zeros((len(held), len(classes)))
    found[:, optimum.model.classes_] = optimum.model.predict_proba(held)
    return float(log_loss(truth, found, labels=classes))


PROBES.register("logistic")(Logistic())
