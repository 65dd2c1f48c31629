"""Probes of a number as scikit-learn regressors: scaling and the choice of the penalty happen inside `fit`."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featprobe import probes
from featprobe.estimators.faults import as_value_error
from featprobe.estimators.parts import KINDS, inner_parts
from featprobe.records import FloatArray


class ProbeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Any registered probe of a continuous target.

    `probe`: its name. `inner_folds`: grouped folds inside the rows given to `fit`, on which the penalty is chosen.
    `seed`: of folds and of probes that draw.

    After `fit`: `fitted_`, the `FittedProbe`; `chosen_`, such as {"alpha": 10.0}; `notes_`; `n_features_in_`.
    """

    def __init__(self, probe: str = "ridge", *, seed: int = 0, inner_folds: int = 5) -> None:
        self.probe = probe
        self.seed = seed
        self.inner_folds = inner_folds

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """`X` [N, D] and `y` [N], finite; `groups` [N]: who belongs together. Raises EstimatorError (a ValueError)."""
        X, y = validate_data(
            self, X, y, dtype=KINDS, y_numeric=True, ensure_min_samples=2, ensure_all_finite=False
        )
        values = np.asarray(y, dtype=np.float64)
        with as_value_error():
            probes.need_suitable(self.probe, "continuous")
            parts, notes = inner_parts(
                values, groups, task="continuous", names=("y",), folds=self.inner_folds, seed=self.seed
            )
            self.fitted_ = probes.fit_probe(
                self.probe,
                X,
                values,
                n_classes=1,
                selection=parts,
                calibration=parts,
                seed=self.seed,
                task="continuous",
            )
        self.chosen_ = dict(self.fitted_.chosen)
        self.notes_ = (*notes, *self.fitted_.notes)
        return self

    def predict(self, X: Any) -> FloatArray:
        """The value of each row, float64 [M]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=KINDS, reset=False, ensure_all_finite=False)
        with as_value_error():
            return np.asarray(self.fitted_.predict(X)[:, 0])
