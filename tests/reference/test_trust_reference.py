"""Calibration, selection and prediction sets against scipy, scikit-learn, MAPIE and worked values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from featprobe import trust
from featprobe.probes.solvers.svm_scores import Decided


def drawn(rows=400, classes=4, sharpness=2.5, seed=0):
    """(probabilities that are too sure of themselves, classes drawn from the honest ones)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (rows, classes))
    y = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
    return softmax(sharpness * logits, axis=1), y


@pytest.mark.parametrize(("classes", "sharpness"), [(2, 2.5), (4, 2.5), (7, 0.4)])
def test_a_temperature_is_scipys_minimum_of_the_log_loss(classes, sharpness):
    scores, y = drawn(classes=classes, sharpness=sharpness)
    logs = np.log(scores)

    def loss(cold):
        return -log_softmax(logs * np.exp(cold), axis=1)[np.arange(len(y)), y].mean()

    wanted = np.exp(-minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10}).x)
    calibrator, chosen, notes = trust.calibrate("temperature", scores, y)
    assert chosen["temperature"] == pytest.approx(wanted, rel=1e-6)
    assert chosen["temperature"] == pytest.approx(sharpness, rel=0.25)
    assert notes == ()
    np.testing.assert_allclose(calibrator(scores), softmax(logs / wanted, axis=1), rtol=1e-5)


def test_a_temperature_is_scikit_learns():
    scores, y = drawn()
    given = FrozenEstimator(Decided(4).fit(scores, y))
    every = np.arange(len(y))
    rival = CalibratedClassifierCV(given, method="temperature", cv=[(every, every)], ensemble=False)
    rival.fit(np.log(scores), y)
    ours = trust.calibrate("temperature", scores, y)[0](scores)
    np.testing.assert_allclose(ours, rival.predict_proba(np.log(scores)), atol=1e-4)


def test_each_label_has_its_own_temperature_on_the_rows_that_know_it():
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 2, (500, 2))
    y = (rng.random((500, 2)) < expit(odds)).astype(np.int64)
    y[:100, 1] = -1
    scores = expit(odds * [3.0, 0.5])
    calibrator, chosen, _ = trust.calibrate("temperature", scores, y, names=("a", "b"))
    for label, name in enumerate("ab"):
        known = y[:, label] >= 0
        z, t = logit(scores[known, label]), 2 * y[known, label] - 1
        best = minimize_scalar(
            lambda x, z=z, t=t: np.logaddexp(0, -t * z / x).mean(), bounds=(0.1, 10), method="bounded"
        )
        assert chosen[f"temperature of {name}"] == pytest.approx(best.x, rel=1e-3)
        np.testing.assert_allclose(
            calibrator(scores)[:, label], expit(logit(scores[:, label]) / best.x), atol=1e-3
        )


@pytest.mark.parametrize("classes", [2, 4])
def test_isotonic_scores_are_scikit_learns(classes):
    scores, y = drawn(classes=classes)
    other, _ = drawn(classes=classes, seed=5)
    ours = trust.calibrate("isotonic", scores, y)[0](other)
    columns = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(scores[:, k], y == k)
        .predict(other[:, k])
        for k in range(classes)
    ]
    if classes == 2:
        np.testing.assert_allclose(ours[:, 1], columns[1], atol=1e-12)
    else:
        wanted = np.column_stack(columns)
        np.testing.assert_allclose(ours, wanted / wanted.sum(axis=1, keepdims=True), atol=1e-12)
    given = FrozenEstimator(Decided(classes).fit(scores, y))
    table = scores[:, 1:] if classes == 2 else scores
    every = np.arange(len(y))
    rival = CalibratedClassifierCV(given, method="isotonic", cv=[(every, every)], ensemble=False).fit(
        table, y
    )
    np.testing.assert_allclose(ours, rival.predict_proba(other[:, 1:] if classes == 2 else other), atol=1e-6)
