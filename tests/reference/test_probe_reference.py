"""A probe's optimum is scikit-learn's: same probabilities, same choice of C, written the plain way."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featprobe.probes import fit_probe, logistic, svm


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


@pytest.mark.parametrize(("rows", "columns", "classes"), SHAPES)
def test_svm_is_calibrated_classifier_cv(rows, columns, classes):
    X, y = data(rows, columns, classes)
    cut = list(StratifiedKFold(4, shuffle=True, random_state=0).split(X, y))
    fitted = fit_probe("svm", X, y, n_classes=classes, selection=cut, calibration=cut, seed=0)
    plain = make_pipeline(StandardScaler(), SVC(kernel="linear", tol=svm.TOLERANCE))
    search = GridSearchCV(plain, {"svc__C": list(svm.GRID)}, scoring="balanced_accuracy", cv=cut).fit(X, y)
    np.testing.assert_allclose(
        list(fitted.scores.values()), search.cv_results_["mean_test_score"], atol=1e-12
    )
    assert fitted.chosen["C"] == search.best_params_["svc__C"]
    new, _ = data(40, columns, classes, seed=1)
    expected = CalibratedClassifierCV(search.best_estimator_, method="sigmoid", cv=cut, ensemble=False).fit(
        X, y
    )
    np.testing.assert_allclose(fitted.predict_proba(new), expected.predict_proba(new), rtol=0, atol=1e-4)


def test_svm_without_gram_matrix_is_the_same(monkeypatch):
    X, y = data(80, 20, 3)
    cut = list(StratifiedKFold(3).split(X, y))
    whole = fit_probe("svm", X, y, n_classes=3, selection=cut, calibration=cut, seed=0)
    monkeypatch.setattr(svm, "GRAM_ROWS", 10)
    lean = fit_probe("svm", X, y, n_classes=3, selection=cut, calibration=cut, seed=0)
    assert lean.chosen == whole.chosen
    np.testing.assert_allclose(lean.predict_proba(X), whole.predict_proba(X), atol=1e-4)
