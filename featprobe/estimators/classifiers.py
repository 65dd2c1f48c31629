"""Probes as scikit-learn classifiers: scaling, the choice of C and calibration happen inside `fit`."""

from __future__ import annotations

from typing import Any, Final, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from featprobe import probes
from featprobe.errors import ConfigError
from featprobe.estimators.faults import EstimatorError, as_value_error
from featprobe.estimators.parts import KINDS, inner_parts
from featprobe.records import AnyArray, FloatArray
from featprobe.registry import PROBES

LINEAR: Final = ("centroid", "lda", "logistic", "ridge_classifier", "svm", "svm_squared")
"""Probes whose scores are linear in the embedding."""

CALIBRATIONS: Final = (None, "sigmoid", "isotonic")
_TASKS: Final = ("classes", "ordinal", "multilabel")


class ProbeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Any registered probe of classes, or of labels that may hold at once.

    `probe`: its name. `task`: "classes", "ordinal" (classes in their sorted order) or "multilabel"; None: by `y`.
    `inner_folds`: grouped, stratified folds inside the rows given to `fit`, on which C (or k, or whatever the probe
    chooses) and the probe's own Platt scaling are fitted; there are fewer where a class has few members. `calibrate`:
    None takes the probe's probabilities as they are; "sigmoid" or "isotonic" fit scikit-learn's calibration on top,
    out of fold (classes alone). `seed`: of folds and of probes that draw.

    After `fit`: `classes_` [K], the sorted classes (of several labels their numbers, 0 to L - 1); `fitted_`, the
    `FittedProbe`; `chosen_`, such as {"C": 0.01}; `notes_`, what a report must say; `n_features_in_`.

    >>> import numpy as np
    >>> X = np.repeat(np.eye(2), 10, axis=0) + 0.01 * np.arange(40).reshape(20, 2)
    >>> ProbeClassifier("logistic").fit(X, np.repeat(["a", "b"], 10)).predict(X[[0, 15]]).tolist()
    ['a', 'b']
    """

    def __init__(
        self,
        probe: str = "logistic",
        *,
        task: str | None = None,
        seed: int = 0,
        inner_folds: int = 5,
        calibrate: str | None = None,
    ) -> None:
        self.probe = probe
        self.task = task
        self.seed = seed
        self.inner_folds = inner_folds
        self.calibrate = calibrate

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks and meta-estimators ask for."""
        tags = super().__sklearn_tags__()
        tasks = PROBES.get(self.probe).tasks if self.probe in PROBES.names() else ()
        tags.classifier_tags.multi_label = "multilabel" in tasks
        # scikit-learn's checks judge by classes without order, which a probe of ordered ones alone can't tell apart.
        tags.classifier_tags.poor_score = "classes" not in tasks
        return tags

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """`X` [N, D] finite; `y` [N] classes of any kind, or [N, L] of 0, 1 and -1 (missing); `groups` [N]: who belongs together.

        Raises EstimatorError (a ValueError), also where no more than one class has two members.
        """
        self._check_parameters()
        X = validate_data(self, X, dtype=KINDS, ensure_min_samples=2, ensure_all_finite=False)
        target, names, task = self._target(y, len(X))
        with as_value_error():
            probes.need_suitable(self.probe, task)
            parts, notes = inner_parts(
                target, groups, task=task, names=names, folds=self.inner_folds, seed=self.seed
            )
            self.fitted_ = probes.fit_probe(
                self.probe,
                X,
                target,
                n_classes=len(names),
                selection=parts,
                calibration=parts,
                seed=self.seed,
                task=task,
                label_names=names,
            )
        self.chosen_ = dict(self.fitted_.chosen)
        self.notes_ = (*notes, *self.fitted_.notes)
        self.calibrated_ = self._calibrated(X, y, groups, parts, task)
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities float64 [M, K], rows sum to 1; of several labels [M, L], each for itself."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=KINDS, reset=False, ensure_all_finite=False)
        if self.calibrated_ is not None:
            return np.asarray(self.calibrated_.predict_proba(X), dtype=np.float64)
        with as_value_error():
            return self.fitted_.predict(X)

    def decision_function(self, X: Any) -> FloatArray:
        """Log-odds of the probabilities: [M] of the second of two classes, else [M, K] or [M, L]; always finite."""
        found = self.predict_proba(X)
        least = np.finfo(np.float64).tiny
        if self.fitted_.task == "multilabel" or found.shape[1] > 2:
            return np.log(np.maximum(found, least)) - np.log(np.maximum(1 - found, least))
        low, high = np.log(np.maximum(found, least)).T
        return np.asarray(high - low)

    def predict(self, X: Any) -> AnyArray:
        """The most probable class of each row, [M]; of several labels int64 [M, L], 1 where it is one half or more."""
        found = self.predict_proba(X)
        if self.fitted_.task == "multilabel":
            return (found >= 0.5).astype(np.int64)
        return np.asarray(self.classes_[found.argmax(axis=1)])

    def _check_parameters(self) -> None:
        with as_value_error():
            PROBES.get(self.probe)
        if self.task not in {None, *_TASKS}:
            step = "use ProbeRegressor" if self.task == "continuous" else f"use one of {', '.join(_TASKS)}"
            raise EstimatorError(f"task is {self.task!r}", "a classifier tells classes or labels apart", step)
        if self.calibrate not in CALIBRATIONS:
            raise EstimatorError(f"calibrate is {self.calibrate!r}", "known: None, 'sigmoid', 'isotonic'")

    def _target(self, y: Any, count: int) -> tuple[AnyArray, tuple[str, ...], str]:
        """(the target as probes take it, label names, task); sets `classes_`."""
        if y is None:
            raise EstimatorError("requires y to be passed, but the target y is None")
        labels = np.asarray(y)
        several = self.task == "multilabel" or (
            self.task is None and labels.ndim == 2 and labels.shape[1] > 1
        )
        if several:
            return self._labels(labels, count)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        if len(labels) != count:
            raise EstimatorError(f"{len(labels)} labels for {count} rows", "inconsistent numbers of samples")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise EstimatorError(
                "y holds one class only",
                f"{len(self.classes_)} class in {count} rows",
                "give rows of two classes",
            )
        return codes.astype(np.int64), tuple(str(name) for name in self.classes_), self.task or "classes"

    def _labels(self, labels: AnyArray, count: int) -> tuple[AnyArray, tuple[str, ...], str]:
        known = np.where(np.isnan(labels), -1, labels) if labels.dtype.kind == "f" else labels
        if labels.ndim != 2 or len(labels) != count or known.dtype.kind not in "bif":
            raise EstimatorError(
                f"labels of shape {labels.shape} ({labels.dtype}) for {count} rows", "0, 1, -1 [N, L]"
            )
        if not np.isin(known, (-1, 0, 1)).all():
            raise EstimatorError(
                "labels other than 0, 1 and -1 (missing)", "each column is a label of its own"
            )
        self.classes_ = np.arange(labels.shape[1])
        return known.astype(np.int64), tuple(str(number) for number in self.classes_), "multilabel"

    def _calibrated(self, X: AnyArray, y: Any, groups: Any, parts: Any, task: str) -> Any:
        """scikit-learn's calibration of this probe, fitted out of fold; None where it is not asked for."""
        if self.calibrate is None:
            return None
        if task == "multilabel":
            raise EstimatorError(
                "calibrate can't be used with several labels",
                "a calibration is of classes",
                "use calibrate=None",
            )
        own = ProbeClassifier(self.probe, task=self.task, seed=self.seed, inner_folds=self.inner_folds)
        calibrated = CalibratedClassifierCV(own, method=self.calibrate, cv=parts, ensemble=False)
        given = {} if groups is None else {"groups": np.asarray(groups)}
        return calibrated.fit(X, column_or_1d(y), **given)


class LinearProbe(ProbeClassifier):
    """A linear probe with scaling, the choice of C and calibration inside: see `ProbeClassifier`.

    `probe`: one of `LINEAR`. For the bare path of solutions over C see `featprobe.LogisticPath`.
    """

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.probe not in LINEAR:
            error = ConfigError(
                f"{self.probe!r} is no linear probe",
                f"linear are: {', '.join(LINEAR)}",
                "use ProbeClassifier",
            )
            raise EstimatorError(error.wrong, error.known, error.next_step)
