"""The linear head that agrees best with a measured number: Lin's concordance instead of the squared error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featprobe.probes.paths import PathProbe, Settings
from featprobe.probes.ridge import GRID, Decomposed, Lines, edge, need_penalties
from featprobe.records import AnyArray, FloatArray
from featprobe.registry import PROBES


class Concordance(PathProbe):
    """Ridge's direction, stretched to the spread of the target.

    Least squares shrinks towards the mean, so that large values are predicted too small and small ones too large;
    Lin's coefficient charges for that. Among a + b f of one predictor f it is largest where mean and standard deviation
    are the target's, and among all linear predictors f is then the least-squares fit: the maximum agreement linear predictor
    (Bottai et al., On Optimal Correlation-Based Prediction, The American Statistician 76, 2022; Kim et al.,
    arXiv 2304.04221, section 3). Here f is the ridge fit, for as many columns as an embedding has, its moments are
    those of the training rows, and alpha is chosen by the coefficient on held-out rows.
    """

    name = "concordance"
    describe = (
        "linear regression for agreement on standardised embeddings (ridge, stretched to the mean and spread of the target: "
        "the maximum agreement linear predictor), alpha from 1e-3 to 1e8 in half decades by validation concordance"
    )
    tasks = ("continuous",)
    parameter = "alpha"
    grid = GRID
    scoring = {"continuous": "concordance"}  # noqa: RUF012 - declared a ClassVar by PathProbe

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> Lines:
        """A fit without spread (columns that say nothing) predicts the mean."""
        settings.only()
        need_penalties(grid)
        lines = Decomposed.of(X, y[:, None]).lines(grid)
        fitted = lines.predict(X)[:, :, 0]
        spread = fitted.std(axis=1)
        rounding = 1e-12 * np.abs(fitted).max(axis=1)
        stretch = np.where(spread > rounding, y.std() / np.where(spread > rounding, spread, 1), 0)
        coef = lines.coef * stretch[:, None, None]
        return Lines(coef, y.mean() - X.mean(axis=0) @ coef)

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """A note where alpha was chosen at an end of its grid."""
        return edge(place, grid)


PROBES.register("concordance")(Concordance())
