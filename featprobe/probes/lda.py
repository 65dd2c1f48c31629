"""Linear discriminant analysis with shrinkage: normal classes that share one covariance, every shrinkage at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf_shrinkage

from featprobe.errors import ConfigError
from featprobe.probes.contract import OWN, Fit, Parts, Rule
from featprobe.probes.linear import SoftmaxPath, class_means, varying, within_classes
from featprobe.probes.paths import PathProbe, Settings
from featprobe.probes.scaling import Scaling
from featprobe.probes.weighing import row_weights
from featprobe.records import AnyArray, FloatArray
from featprobe.registry import PROBES

GRID: Final = (1.0, 0.99, 0.97, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4, 0.0)
CHOICES: Final = ("held out", "ledoit-wolf")


def spectrum(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(eigenvalues [R], eigenvectors [D, R]) of the covariance rows' rows / N that are more than rounding.

    From the Gram matrix where there are fewer rows [N, D] than columns.
    """
    n, d = rows.shape
    few = n < d
    values, vectors = eigh((rows @ rows.T if few else rows.T @ rows) / n, check_finite=False)
    real = values > max(n, d) * np.finfo(np.float64).eps * max(values[-1], 0)
    values, vectors = values[real], vectors[:, real]
    if few:
        vectors = rows.T @ (vectors / np.sqrt(n * values))
    return values, vectors


class LDA(PathProbe):
    """scikit-learn's LinearDiscriminantAnalysis(solver="lsqr") for a grid of shrinkages; option choose."""

    name = "lda"
    describe = (
        "linear discriminant analysis on standardised embeddings, the covariance shrunk towards a sphere by 0 to 1, "
        "chosen by validation log loss"
    )
    tasks = ("classes", "ordinal")
    parameter = "shrinkage"
    grid = GRID
    weighs = True

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> SoftmaxPath:
        """Sigma = (1 - s) S + s tr(S) / D I, S the covariance within classes, divided by N; priors are the shares.

        One eigendecomposition S = V Lambda V' gives every inverse: V ((1 - s) Lambda + s m)^-1 V' and 1 / (s m) beside
        V, with m = tr(S) / D, D the columns that vary. At s = 0 directions without spread are left out (the pseudo-inverse). Where no class has
        any spread, Sigma is taken as I. With the option `class_weight` "balanced" priors are 1 / P, and S is the mean of the
        classes' own covariances, as scikit-learn's with these priors. Raises ConfigError for a shrinkage outside 0..1.
        """
        settings.only("choose", "class_weight")
        shrinkage = np.array(grid)
        if ((shrinkage < 0) | (shrinkage > 1)).any():
            raise ConfigError(
                "a shrinkage lies between 0 and 1", f"given: {', '.join(f'{s:g}' for s in grid)}"
            )
        means, present, code = class_means(X, y)
        weight = row_weights(y) if settings.balanced else np.ones(len(y))
        values, vectors = spectrum(within_classes(X, means, code) * np.sqrt(weight)[:, None])
        size = float(values.sum()) / varying(X)
        share = np.bincount(code, weight) / weight.sum()
        centre = share @ means  # distances do not change, and large common offsets cost no digits
        moved = means - centre
        inside = moved @ vectors
        outside = moved - inside @ vectors.T
        if size == 0:
            shrinkage, size = np.ones(len(shrinkage)), 1.0
        sphere = shrinkage * size
        spread = (1 - shrinkage)[:, None] * values + sphere[:, None]
        beside = np.divide(1, sphere, out=np.zeros(len(sphere)), where=sphere > 0)
        coef = (inside / spread[:, None]) @ vectors.T + outside * beside[:, None, None]
        constant = np.log(share) - 0.5 * np.einsum("gpd,pd->gp", coef, moved) - coef @ centre
        return SoftmaxPath(np.swapaxes(coef, 1, 2).copy(), constant, present, settings.classes)

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
        """See `PathProbe.fit`; the option `choose` "ledoit-wolf" takes the shrinkage by formula, without held-out rows.

        Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of Multivariate Analysis
        88 (2004), of all rows less their class's mean (scikit-learn's "auto" has one for each class).
        """
        if Settings(task, 1, seed, dict(rule.options)).word("choose", CHOICES) == "ledoit-wolf":
            own = np.arange(len(X)) if rule.refit or len(selection) != 1 else selection[0][0]
            rows = X[own]
            rows = Scaling.of(rows, rule.scale or self.scale)(rows)
            means, _, code = class_means(rows, y[own])
            rows = within_classes(rows, means, code)[:, (rows != rows[0]).any(axis=0)]
            found = float(ledoit_wolf_shrinkage(rows, assume_centered=True)) if rows.any() else 1.0
            rule = replace(rule, grid=(min(found, 1.0),))
        return super().fit(
            X,
            y,
            selection=selection,
            calibration=calibration,
            seed=seed,
            label_names=label_names,
            task=task,
            rule=rule,
        )

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """Nothing lies beyond 0 and 1."""
        return () if grid[place] in {0, 1} else super().notes(place, grid)


PROBES.register("lda")(LDA())
