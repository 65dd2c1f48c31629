"""A probe's optimum is scikit-learn's: same probabilities, same choice of C, written the plain way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featprobe.probes import Rule, fit_probe, logistic, svm
from featprobe.probes.solvers import svm_systems


def data(rows, columns, classes, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    decay = np.exp(-np.arange(columns) / 30)
    hidden = rng.standard_normal((rows, columns)) * decay
    hidden[:, :10] += 0.7 * rng.standard_normal((classes, 10))[y]
    turn = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    return hidden @ turn + rng.standard_normal(columns), y


SHAPES = [(80, 150, 2), (80, 150, 4), (200, 30, 2), (200, 30, 3)]


@pytest.mark.parametrize(("rows", "columns", "classes"), SHAPES)
def test_logistic_is_plain_scikit_learn(rows, columns, classes):
    X, y = data(rows, columns, classes)
    cut = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    fitted = fit_probe("logistic", X, y, n_classes=classes, selection=cut, calibration=cut, seed=0)
    assert fitted.notes == ()
    new, _ = data(40, columns, classes, seed=1)

    def plain(C):
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-10, max_iter=50_000))

    expected = plain(fitted.chosen["C"]).fit(X, y).predict_proba(new)
    np.testing.assert_allclose(fitted.predict_proba(new), expected, rtol=0, atol=1e-6)
    for C in list(fitted.scores)[::4]:
        losses = [
            log_loss(y[v], plain(C).fit(X[f], y[f]).predict_proba(X[v]), labels=range(classes))
            for f, v in cut
        ]
        assert -np.mean(losses) == pytest.approx(fitted.scores[C], abs=1e-5)
    best = max(fitted.scores.values())
    ties = [c for c, score in fitted.scores.items() if score >= best - logistic.TIE]
    assert fitted.chosen["C"] == min(ties)
    # What the walk did not try would not have been chosen.
    rest = [c for c in logistic.GRID if c not in fitted.scores]
    for C in rest[:: max(1, len(rest) - 1)]:
        losses = [
            log_loss(y[v], plain(C).fit(X[f], y[f]).predict_proba(X[v]), labels=range(classes))
            for f, v in cut
        ]
        assert -np.mean(losses) < best


TIGHT = 1e-9
"""libsvm's tolerance at which it is converged: at its default its classes differ from the optimum's in some rows."""


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize(("rows", "columns", "classes"), SHAPES)
def test_svm_is_calibrated_classifier_cv(rows, columns, classes, method):
    X, y = data(rows, columns, classes)
    cut = list(StratifiedKFold(4, shuffle=True, random_state=0).split(X, y))
    rule = Rule(options={"calibration": method})
    fitted = fit_probe("svm", X, y, n_classes=classes, selection=cut, calibration=cut, seed=0, rule=rule)
    plain = make_pipeline(StandardScaler(), SVC(kernel="linear", tol=TIGHT))
    search = GridSearchCV(plain, {"svc__C": list(svm.GRID)}, scoring="balanced_accuracy", cv=cut).fit(X, y)
    np.testing.assert_allclose(
        list(fitted.scores.values()), search.cv_results_["mean_test_score"], atol=1e-12
    )
    assert fitted.chosen["C"] == search.best_params_["svc__C"]
    new, _ = data(40, columns, classes, seed=1)
    kind = {"platt": "sigmoid", "isotonic": "isotonic"}[method]
    expected = CalibratedClassifierCV(search.best_estimator_, method=kind, cv=cut, ensemble=False).fit(X, y)
    np.testing.assert_allclose(fitted.predict_proba(new), expected.predict_proba(new), rtol=0, atol=2e-5)


class Squared(ClassifierMixin, BaseEstimator):
    """Squared hinge with a free intercept, one class against the rest, by scipy's L-BFGS."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        targets = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        self.lines_ = np.array([squared_hinge(X, np.where(y == k, 1.0, -1.0), self.C) for k in targets])
        return self

    def decision_function(self, X):
        values = X @ self.lines_[:, :-1].T + self.lines_[:, -1]
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X):
        values = self.decision_function(X)
        place = values > 0 if values.ndim == 1 else values.argmax(axis=1)
        return self.classes_[place.astype(int)]


def squared_hinge(X, sign, C):
    """(w, b), [D + 1]."""

    def value(point):
        over = np.maximum(1 - sign * (X @ point[:-1] + point[-1]), 0)
        slope = -2 * C * over * sign
        gradient = np.append(point[:-1] + slope @ X, slope.sum())
        return 0.5 * point[:-1] @ point[:-1] + C * over @ over, gradient

    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-10}
    return minimize(value, np.zeros(X.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).x


@pytest.mark.parametrize(("rows", "columns", "classes"), [(80, 120, 2), (150, 20, 3)])
def test_svm_squared_is_calibrated_classifier_cv(rows, columns, classes):
    X, y = data(rows, columns, classes)
    cut = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    grid = (1e-4, 1e-2, 1.0)
    rule = Rule(grid=grid)
    fitted = fit_probe(
        "svm_squared", X, y, n_classes=classes, selection=cut, calibration=cut, seed=0, rule=rule
    )
    plain = make_pipeline(StandardScaler(), Squared())
    search = GridSearchCV(plain, {"squared__C": list(grid)}, scoring="balanced_accuracy", cv=cut).fit(X, y)
    np.testing.assert_allclose(
        list(fitted.scores.values()), search.cv_results_["mean_test_score"], atol=1e-12
    )
    assert fitted.chosen["C"] == search.best_params_["squared__C"]
    new, _ = data(40, columns, classes, seed=1)
    expected = CalibratedClassifierCV(search.best_estimator_, method="sigmoid", cv=cut, ensemble=False)
    np.testing.assert_allclose(
        fitted.predict_proba(new), expected.fit(X, y).predict_proba(new), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("probe", ["svm", "svm_squared"])
def test_a_label_is_a_machine_of_two_classes_on_the_rows_that_know_it(probe):
    X, _ = data(120, 12, 2)
    rng = np.random.default_rng(2)
    labels = (X[:, :3] - X[:, :3].mean(axis=0) + rng.standard_normal((120, 3)) > 0).astype(int)
    labels[rng.random(labels.shape) < 0.15] = -1
    cut = [
        (np.flatnonzero(np.arange(120) % 3 != k), np.flatnonzero(np.arange(120) % 3 == k)) for k in range(3)
    ]
    several = {"n_classes": 3, "task": "multilabel", "selection": cut, "calibration": cut, "seed": 0}
    fitted = fit_probe(probe, X, labels, **several)
    for label in range(3):
        known = np.flatnonzero(labels[:, label] >= 0)
        own = [(np.flatnonzero(np.isin(known, f)), np.flatnonzero(np.isin(known, h))) for f, h in cut]
        alone = {"n_classes": 2, "selection": own, "calibration": own, "seed": 0}
        one = fit_probe(probe, X[known], labels[known, label], **alone)
        assert fitted.chosen[f"C of {label}"] == one.chosen["C"]
        np.testing.assert_array_equal(fitted.predict(X)[:, label], one.predict(X)[:, 1])


def test_svm_without_gram_matrix_is_the_same(monkeypatch):
    X, y = data(80, 20, 3)
    cut = list(StratifiedKFold(3).split(X, y))
    monkeypatch.setattr(svm_systems, "GRAM_ROWS", 0)  # 8 columns: up to 16 rows then
    lean = fit_probe("svm", X[:, :8], y, n_classes=3, selection=cut, calibration=cut, seed=0)
    monkeypatch.undo()
    whole = fit_probe("svm", X[:, :8], y, n_classes=3, selection=cut, calibration=cut, seed=0)
    assert lean.chosen == whole.chosen
    np.testing.assert_allclose(lean.predict_proba(X[:, :8]), whole.predict_proba(X[:, :8]), atol=1e-6)
