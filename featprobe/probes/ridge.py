"""Ridge regression, the linear probe of a number: every penalty, and every row left out, from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.linalg import eigh

from featprobe.errors import ConfigError
from featprobe.probes.choosing import pick, score
from featprobe.probes.contract import OWN, Fit, Parts, Rule
from featprobe.probes.paths import PathProbe, Settings
from featprobe.probes.scaling import Scaling
from featprobe.records import AnyArray, FloatArray
from featprobe.registry import PROBES

GRID: Final = tuple(float(a) for a in 10.0 ** np.arange(8, -3.5, -0.5))
CHOICES: Final = ("held out", "leave-one-out")
ALONE: Final = "alpha was chosen by leaving out one row at a time: rows of one group were not kept together"


@dataclass(frozen=True, slots=True, eq=False)
class Decomposed:
    """Rows [N, D] that are centred and decomposed once, so that each penalty costs two small products.

    With Xc the centred rows, `values` [R] and `vectors` are the eigenvalues and eigenvectors of Xc'Xc (R = D) or,
    where that is smaller, of Xc Xc' (R = N, `dual`). `turned` [R, T]: vectors' Xc'(y - mean), or vectors'(y - mean).
    With weights of rows all of this is of sqrt(weight) times the rows, and means are weighted; `level` [T]: of y.
    """

    rows: FloatArray
    targets: FloatArray
    centre: FloatArray
    values: FloatArray
    vectors: FloatArray
    turned: FloatArray
    level: FloatArray
    dual: bool

    @classmethod
    def of(cls, X: FloatArray, targets: FloatArray, weights: FloatArray | None = None) -> Decomposed:
        """X [N, D], targets float [N, T], weights of rows float [N] above 0 (not for `left_out`)."""
        centre, level = np.average(X, axis=0, weights=weights), np.average(targets, axis=0, weights=weights)
        rows, wanted = X - centre, targets - level
        if weights is not None:
            rows, wanted = rows * np.sqrt(weights)[:, None], wanted * np.sqrt(weights)[:, None]
        dual = len(rows) < X.shape[1]
        values, vectors = eigh(rows @ rows.T if dual else rows.T @ rows, check_finite=False)
        turned = vectors.T @ (wanted if dual else rows.T @ wanted)
        return cls(rows, targets, centre, np.maximum(values, 0), vectors, turned, level, dual)

    def lines(self, alphas: Sequence[float]) -> Lines:
        """The minimum of |y - b - X w|^2 (weighted) + alpha |w|^2 for each of `alphas`: scikit-learn's `Ridge`.

        w = V (Lambda + alpha)^-1 V' Xc' (y - mean), or Xc' U (Lambda + alpha)^-1 U' (y - mean).
        """
        inverse = 1 / (self.values + np.array(alphas)[:, None])
        coef = self.vectors @ (inverse[:, :, None] * self.turned)
        if self.dual:
            coef = self.rows.T @ coef
        return Lines(coef, self.level - self.centre @ coef)

    def left_out(self, alphas: Sequence[float]) -> FloatArray:
        """What is predicted for each row by the fit to all others, for each of `alphas`, [A, N, T].

        y_i - (y_i - f_i) / (1 - h_ii), with f the fit and h the diagonal of its hat matrix (Allen, Technometrics 16,
        1974; Golub, Heath & Wahba, Technometrics 21, 1979): 1 / N for the intercept plus the sum over the spectrum.
        """
        basis = self.vectors if self.dual else self.rows @ self.vectors
        inverse = 1 / (self.values + np.array(alphas)[:, None])
        shrunk = inverse * self.values if self.dual else inverse  # of U, or of Xc V = U sqrt(Lambda)
        hat = 1 / len(basis) + shrunk @ np.square(basis).T
        fitted = self.targets.mean(axis=0) + basis @ (shrunk[:, :, None] * self.turned)
        free = np.maximum(1 - hat, np.finfo(np.float64).eps)[:, :, None]
        return np.asarray(self.targets - (self.targets - fitted) / free)


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Linear predictors, one for each penalty: `coef` [G, D, T], `intercept` [G, T]."""

    coef: FloatArray
    intercept: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """[G, M, T]."""
        return np.asarray(X @ self.coef + self.intercept[:, None])

    def keep(self, place: int) -> LinearModel:
        """The line of one penalty, T = 1."""
        return LinearModel(self.coef[place, :, 0], float(self.intercept[place, 0]))


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """A value for each row: `coef` [D], `intercept`."""

    coef: FloatArray
    intercept: float

    def predict(self, X: FloatArray) -> FloatArray:
        """The value of each row, [M, 1]."""
        return np.asarray((X @ self.coef + self.intercept)[:, None])


def need_penalties(grid: Sequence[float]) -> None:
    """ConfigError for an alpha that is not above 0."""
    if any(not 0 < alpha < float("inf") for alpha in grid):
        raise ConfigError(
            "alpha has to be a number above 0", f"given: {', '.join(f'{alpha:g}' for alpha in grid)}"
        )


class RidgeProbe(PathProbe):
    """L2-penalised least squares on standardised embeddings; option choose."""

    name = "ridge"
    describe = (
        "ridge regression (least squares, L2) on standardised embeddings, alpha from 1e-3 to 1e8 in half decades "
        "by validation mean squared error"
    )
    tasks = ("continuous",)
    parameter = "alpha"
    grid = GRID

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> Lines:
        """One decomposition for all penalties."""
        settings.only("choose")
        need_penalties(grid)
        return Decomposed.of(X, y[:, None]).lines(grid)

    def fit(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """See `PathProbe.fit`; the option `choose` "leave-one-out" judges alpha by each row left out, for nothing.

        scikit-learn's `RidgeCV(cv=None)` does the same. It keeps no groups together, and the scaling has seen all rows:
        a note says so.
        """
        asked = Settings(task, 1, seed, dict(rule.options)).word("choose", CHOICES)
        judged: dict[float, float] = {}
        said: tuple[str, ...] = ()
        if asked == "leave-one-out":
            grid = rule.grid or GRID
            need_penalties(grid)
            rows = Scaling.of(X, rule.scale or self.scale)(X)
            found = score(rule.score or self.scoring[task])(y, Decomposed.of(rows, y[:, None]).left_out(grid))
            place = pick([found], rule.pick or self.picking, relative=True)
            judged = dict(zip(grid, found.tolist(), strict=True))
            said = (*self.notes(place, grid), ALONE)
            rule = replace(rule, grid=(grid[place],), refit=True)
        model, chosen, scores, notes = super().fit(
            X,
            y,
            selection=selection,
            calibration=calibration,
            seed=seed,
            label_names=label_names,
            task=task,
            rule=rule,
        )
        return model, chosen, judged or scores, (*said, *notes)

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """A note where alpha was chosen at an end of its grid."""
        return edge(place, grid)


def edge(place: int, grid: Sequence[float]) -> tuple[str, ...]:
    """A note where alpha was chosen at an end of its grid, strongest first."""
    if len(grid) < 2 or place not in {0, len(grid) - 1}:
        return ()
    strong = place == 0
    return (
        f"alpha = {grid[place]:g} lies at the {'strong' if strong else 'weak'} end of its grid ({min(grid):g} to {max(grid):g}): "
        + ("the embedding says little about the target" if strong else "a smaller alpha might do better"),
    )


PROBES.register("ridge")(RidgeProbe())
