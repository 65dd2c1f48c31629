"""Ridge on targets of -1 and 1: least squares as a classifier, with probabilities from rows that it had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from featprobe.probes.contract import OWN, Fit, Parts, Rule
from featprobe.probes.paths import PathProbe, ScaledModel, Settings
from featprobe.probes.ridge import GRID, Decomposed, Lines, edge, need_penalties
from featprobe.probes.scaling import Scaling
from featprobe.probes.weighing import row_weights
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

SHARPEST: Final = 1e3
"""The greatest factor of decision values, which lie about -1 and 1."""


@dataclass(frozen=True, slots=True, eq=False)
class DecisionModel:
    """softmax(sharpness * (X coef + intercept)) over the classes `present` [P]: `coef` [D, K], `intercept` [K]."""

    coef: FloatArray
    intercept: FloatArray
    present: IntArray
    sharpness: float

    def decide(self, X: FloatArray) -> FloatArray:
        """Decision values, [M, K]."""
        return np.asarray(X @ self.coef + self.intercept)

    def predict(self, X: FloatArray) -> FloatArray:
        """Probabilities, [M, K], in the order of the decision values; 0 for classes that did not occur."""
        result = np.zeros((len(X), len(self.intercept)))
        result[:, self.present] = softmax(self.sharpness * self.decide(X)[:, self.present], axis=1)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class DecisionPath:
    """Decision values for every penalty."""

    lines: Lines
    present: IntArray

    def predict(self, X: FloatArray) -> FloatArray:
        """The softmax of the plain decision values, [G, M, K]: not calibrated yet, so only the order of classes counts."""
        result = np.zeros((len(self.lines.coef), len(X), self.lines.coef.shape[2]))
        result[:, :, self.present] = softmax(self.lines.predict(X)[:, :, self.present], axis=2)
        return result

    def keep(self, place: int) -> DecisionModel:
        """Not calibrated yet."""
        return DecisionModel(self.lines.coef[place], self.lines.intercept[place], self.present, 1.0)


class RidgeClassifierProbe(PathProbe):
    """scikit-learn's RidgeClassifier on standardised embeddings, calibrated by one temperature out of fold."""

    name = "ridge_classifier"
    describe = (
        "ridge regression on targets of -1 and 1, one against the rest, on standardised embeddings, alpha from 1e-3 to 1e8 "
        "in half decades by validation balanced accuracy, probabilities by one temperature fitted out of fold by group inside the training data"
    )
    tasks = ("classes", "ordinal")
    parameter = "alpha"
    grid = GRID
    weighs = True
    scoring = {"classes": "balanced_accuracy", "ordinal": "balanced_accuracy"}  # noqa: RUF012 - declared a ClassVar by PathProbe

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> DecisionPath:
        """Every class against the rest, from one decomposition; option `class_weight` as scikit-learn's."""
        settings.only("class_weight")
        need_penalties(grid)
        weights = row_weights(y) if settings.balanced else None
        lines = Decomposed.of(X, signs(y, settings.classes), weights).lines(grid)
        return DecisionPath(lines, np.unique(y).astype(np.int64))

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
        """See `PathProbe.fit`; then the factor of the decision values that has the least log loss out of fold.

        The factor (temperature scaling: Guo et al., On Calibration of Modern Neural Networks, 2017) is fitted to decision values of rows
        that were held out, in each part of `calibration` (of `selection` where that is empty), at the chosen alpha. A class
        that a part's fit lacks has the decision value -1 there: a sure error, which asks for less certainty.
        """
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
        settings = Settings(task, int(y.max()) + 1, seed, dict(rule.options))
        kind = rule.scale or self.scale
        values, truth = [], []
        for rows, held in calibration or selection:
            scaling = Scaling.of(X[rows], kind)
            path = self.path(scaling(X[rows]), y[rows], (chosen["alpha"],), settings)
            values.append(path.keep(0).decide(scaling(X[held])))
            truth.append(y[held])
        assert isinstance(model, ScaledModel)
        assert isinstance(model.inner, DecisionModel)
        found = np.concatenate(truth)
        weights = row_weights(found) if settings.balanced else np.ones(len(found))
        sharp = sharpness(np.concatenate(values), found, weights)
        return ScaledModel(model.scaling, replace(model.inner, sharpness=sharp)), chosen, scores, notes

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """A note where alpha was chosen at an end of its grid."""
        return edge(place, grid)


def signs(y: IntArray, classes: int) -> FloatArray:
    """1 in the column of the row's class and else -1, [N, K]."""
    return np.asarray(np.where(y[:, None] == np.arange(classes), 1.0, -1.0))


def sharpness(values: FloatArray, truth: IntArray, weights: FloatArray | None = None) -> float:
    """The factor in 0..SHARPEST with the least mean log loss of softmax(factor * values [M, K]): a convex problem.

    `weights` [M]: of the rows in that mean (None: all the same).
    """
    own = np.ones(len(truth)) if weights is None else weights
    share = own / own.sum()
    found = minimize_scalar(
        lambda log: -share @ log_softmax(np.exp(log) * values, axis=1)[np.arange(len(truth)), truth],
        bounds=(np.log(1e-3), np.log(SHARPEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


PROBES.register("ridge_classifier")(RidgeClassifierProbe())
