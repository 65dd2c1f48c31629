"""Ridge regression, the linear probe of a number: every penalty from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import svd
from sklearn.preprocessing import StandardScaler

from featprobe.probes.contract import Fit, Parts
from featprobe.records import FloatArray
from featprobe.registry import PROBES

GRID: Final = tuple(float(a) for a in 10.0 ** np.arange(-3, 8.5, 0.5))
TIE: Final = 1e-3
"""Mean squared errors nearer than this share of the least are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """One training part, decomposed once for all penalties.

    With the standardised rows U diag(s) V', the minimum of |y - b - X w|^2 + alpha |w|^2 (scikit-learn's `Ridge`)
    is w = V diag(s / (s^2 + alpha)) U' (y - mean), b the mean of y.
    """

    scaler: StandardScaler
    singular: FloatArray
    right: FloatArray
    turned: FloatArray
    mean: float

    @classmethod
    def of(cls, X: FloatArray, y: FloatArray) -> Ridge:
        """Scaled and decomposed on these rows [N, D] alone; y float [N]."""
        scaler = StandardScaler()
        left, singular, right = svd(scaler.fit_transform(X), full_matrices=False, check_finite=False)
        mean = float(y.mean())
        return cls(scaler, singular, right, left.T @ (y - mean), mean)

    def weights(self, alphas: FloatArray) -> FloatArray:
        """The coefficients of the standardised columns for each penalty, [D, A]."""
        squares = np.square(self.singular)[:, None]
        shrunk: FloatArray = self.right.T @ ((self.singular * self.turned)[:, None] / (squares + alphas))
        return shrunk

    def predict(self, X: FloatArray, alphas: FloatArray) -> FloatArray:
        """Values for each penalty, [M, A]."""
        rows: FloatArray = self.scaler.transform(X)
        return rows @ self.weights(alphas) + self.mean


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """The regression on the embeddings as they come: `coef` [D], `intercept`."""

    coef: FloatArray
    intercept: float

    def predict(self, X: FloatArray) -> FloatArray:
        """The value of each row, [M, 1]."""
        return np.asarray((X @ self.coef + self.intercept)[:, None])


class RidgeProbe:
    """L2-penalised least squares on standardised embeddings."""

    name = "ridge"
    describe = (
        "ridge regression (least squares, L2) on standardised embeddings, alpha from 1e-3 to 1e8 in half decades "
        "by validation mean squared error"
    )
    tasks = ("continuous",)

    def fit(
        self,
        X: FloatArray,
        y: FloatArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
    ) -> Fit:
        """The largest alpha whose mean validation squared error is within TIE of the least, then all rows.

        `calibration` and `seed` are not needed: the optimum is unique.
        """
        del calibration, seed, label_names
        alphas = np.array(GRID)
        losses = [
            np.square(Ridge.of(X[fit], y[fit]).predict(X[held], alphas) - y[held][:, None]).mean(axis=0)
            for fit, held in selection
        ]
        mean = np.mean(losses, axis=0)
        chosen = float(alphas[mean <= (1 + TIE) * mean.min()].max())
        final = Ridge.of(X, y)
        coef = final.weights(np.array([chosen]))[:, 0] / final.scaler.scale_
        model = LinearModel(coef, float(final.mean - final.scaler.mean_ @ coef))
        scores = dict(zip(GRID, (-mean).tolist(), strict=True))
        return model, {"alpha": chosen}, scores, _edge(chosen)


def _edge(chosen: float) -> tuple[str, ...]:
    """A note where alpha was chosen at an end of its grid."""
    if chosen not in {GRID[0], GRID[-1]}:
        return ()
    strong = chosen == GRID[-1]
    return (
        f"alpha = {chosen:g} lies at the {'strong' if strong else 'weak'} end of its grid ({GRID[0]:g} to {GRID[-1]:g}): "
        + ("the embedding says little about the target" if strong else "a smaller alpha might do better"),
    )


PROBES.register("ridge")(RidgeProbe())
