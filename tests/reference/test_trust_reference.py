"""Calibration, selection and prediction sets against scipy, scikit-learn, MAPIE and worked values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.covariance import LedoitWolf
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score, roc_curve

from featprobe import trust
from featprobe.probes.solvers.svm_scores import Decided
from featprobe.trust import outliers
from featprobe.trust.conformal import SCORES, sets, threshold
from featprobe.trust.reliability import bins_of, shares
from featprobe.trust.selective import areas, curve


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


def by_hand(confidence, loss):
    """AURC as it is written down: the mean over k of the mean loss of the k surest rows."""
    ranked = loss[np.argsort(-confidence, kind="stable")]
    return np.mean([ranked[: k + 1].mean() for k in range(len(ranked))])


def test_areas_under_risk_coverage_are_those_written_down():
    rng = np.random.default_rng(2)
    confidence, loss = rng.random(80), (rng.random(80) < 0.3).astype(float)
    aurc, excess, augrc = areas(confidence, loss, np.ones((1, 80)))[:, 0]
    assert aurc == pytest.approx(by_hand(confidence, loss), abs=1e-12)
    assert excess == pytest.approx(aurc - by_hand(-loss, loss), abs=1e-12)
    a = 1 - loss.mean()
    ranking = roc_auc_score(loss == 0, confidence)
    assert augrc == pytest.approx((1 - ranking) * a * (1 - a) + (1 - a) ** 2 / 2, abs=1e-12)
    # The worked limits: errors ranked last leave no excess; constant confidence leaves the error rate at every coverage.
    assert areas(-loss, loss, np.ones((1, 80)))[1, 0] == pytest.approx(0, abs=1e-12)
    assert areas(np.ones(80), loss, np.ones((1, 80)))[0, 0] == pytest.approx(loss.mean(), abs=1e-12)


def test_equally_sure_rows_stand_for_their_random_order():
    rng = np.random.default_rng(3)
    confidence, loss = rng.integers(0, 4, 30) / 4, (rng.random(30) < 0.4).astype(float)
    shuffled = [by_hand((confidence + 1e-6 * rng.random(30)), loss) for _ in range(4_000)]
    found = areas(confidence, loss, np.ones((1, 30)))
    assert found[0, 0] == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / np.sqrt(4_000))
    a = 1 - loss.mean()
    ranking = roc_auc_score(loss == 0, confidence)
    assert found[2, 0] == pytest.approx((1 - ranking) * a * (1 - a) + (1 - a) ** 2 / 2, abs=1e-12)


def test_weights_of_groups_count_rows_as_often_as_they_say():
    rng = np.random.default_rng(4)
    confidence, loss = rng.random(25), (rng.random(25) < 0.4).astype(float)
    times = rng.integers(0, 3, 25)
    twice = areas(np.repeat(confidence, times), np.repeat(loss, times), np.ones((1, times.sum())))
    np.testing.assert_allclose(areas(confidence, loss, times[None, :].astype(float))[2], twice[2], atol=1e-12)
    grid = np.linspace(0.1, 1, 10)
    ours = curve(confidence, loss, np.ones((1, 25)), np.arange(1, 26) / 25)[0]
    ranked = loss[np.argsort(-confidence)]
    np.testing.assert_allclose(ours, np.cumsum(ranked) / np.arange(1, 26), atol=1e-12)
    same = curve(np.repeat(confidence, times), np.repeat(loss, times), np.ones((1, times.sum())), grid)
    np.testing.assert_allclose(curve(confidence, loss, times[None, :].astype(float), grid), same, atol=1e-12)


def test_shares_in_bins_are_scikit_learns_calibration_curve():
    rng = np.random.default_rng(5)
    said = rng.random(500)
    true = rng.random(500) < said**2
    share, mean = calibration_curve(true, said, n_bins=10, strategy="quantile")
    bins = bins_of(said)
    np.testing.assert_allclose(shares(true.astype(float), bins, np.ones((1, 500)))[0], share)
    np.testing.assert_allclose(shares(said, bins, np.ones((1, 500)))[0], mean)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities: lets MAPIE work on what is stored."""

    def __init__(self, classes=4):
        self.classes = classes

    def fit(self, X, y):  # noqa: ARG002 - nothing is learnt
        self.classes_ = np.arange(self.classes)
        self.n_features_in_ = X.shape[1]
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize("name", ["LAC", "APS"])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_prediction_sets_are_mapies_where_each_group_has_one_row(name, level):
    mapie = pytest.importorskip("mapie.classification")
    scores, y = drawn(rows=300, sharpness=1.5)
    given = Given().fit(scores, y)
    rival = mapie.SplitConformalClassifier(
        given, confidence_level=level, conformity_score=name.lower(), random_state=7
    )
    rival.conformalize(scores[:150], y[:150])
    rule = {} if name == "LAC" else {"include_last_label": "randomized"}
    wanted = rival.predict_set(scores[150:], conformity_score_params=rule)[1][:, :, 0]
    # MAPIE draws the random share of the rows to calibrate on, and again of the new ones, from the same seed.
    draw = np.tile(np.random.RandomState(7).uniform(size=150), 2)
    strange = SCORES[name](scores, draw)
    limit = threshold(strange[np.arange(150), y[:150]], np.arange(150), level)
    found = sets(strange[150:], limit)
    np.testing.assert_array_equal(found, wanted)
    assert 0.6 < found.mean() * 4 < 4


def test_the_threshold_of_one_row_per_group_is_the_textbook_rank():
    values = np.random.default_rng(6).permutation(20).astype(float)
    for level in (0.5, 0.8, 0.9, 0.95):
        assert threshold(values, np.arange(20), level) == np.ceil(21 * level) - 1
    assert threshold(values, np.arange(20), 0.96) == np.inf
    # Groups of 2 rows and of 1: each has the mass 1/3, the rest is infinity's.
    assert threshold(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 0.33) == 2
    assert threshold(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 0.5) == 3


def clouds(seed=8):
    """(rows of three classes, their classes, rows to be asked about)."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), 40)
    shape = rng.normal(0, 1, (5, 5))
    X = rng.normal(0, 1, (120, 5)) @ shape + 3 * rng.normal(0, 1, (3, 5))[y]
    return X, y, rng.normal(0, 3, (30, 5))


def test_distances_are_scipys_mahalanobis():
    X, y, asked = clouds()
    means = np.stack([X[y == k].mean(axis=0) for k in range(3)])
    within = np.linalg.inv((X - means[y]).T @ (X - means[y]) / 120)
    wanted = cdist(asked, means, "mahalanobis", VI=within).min(axis=1) ** 2
    plain = outliers.Shrinkage(0, 0)
    np.testing.assert_allclose(outliers.mahalanobis(X, y, asked, shrinkage=plain), wanted, rtol=1e-9)
    whole = np.linalg.inv(np.cov(X.T, bias=True))
    background = cdist(asked, X.mean(axis=0)[None], "mahalanobis", VI=whole)[:, 0] ** 2
    np.testing.assert_allclose(
        outliers.relative_mahalanobis(X, y, asked, shrinkage=plain), wanted - background, rtol=1e-8, atol=1e-8
    )


def test_the_shrunk_covariance_is_scikit_learns():
    X, y, asked = clouds()
    means = np.stack([X[y == k].mean(axis=0) for k in range(3)])
    model = LedoitWolf(assume_centered=True).fit(X - means[y])
    wanted = cdist(asked, means, "mahalanobis", VI=model.precision_).min(axis=1) ** 2
    np.testing.assert_allclose(outliers.mahalanobis(X, y, asked), wanted, rtol=1e-8)


def test_neighbours_energy_and_doubt_are_those_written_down():
    X, _, asked = clouds()
    near = np.sort(
        cdist(
            asked / np.linalg.norm(asked, axis=1, keepdims=True), X / np.linalg.norm(X, axis=1, keepdims=True)
        )
    )
    np.testing.assert_allclose(outliers.neighbour_distance(X, asked, 4), near[:, 3], atol=1e-7)
    np.testing.assert_allclose(outliers.neighbour_distance(X, asked, 500), near[:, -1], atol=1e-7)
    np.testing.assert_allclose(outliers.energy(asked), -np.log(np.exp(asked).sum(axis=1)))
    np.testing.assert_allclose(outliers.doubt(softmax(asked, axis=1)), -softmax(asked, axis=1).max(axis=1))


@pytest.mark.parametrize("ties", [False, True])
def test_accepted_strangers_are_scikit_learns_false_positives(ties):
    rng = np.random.default_rng(9)
    known, strange = rng.normal(0, 1, 90), rng.normal(1, 1, 70)
    if ties:
        known, strange = known.round(), strange.round()
    false, true, _ = roc_curve(
        np.repeat([1, 0], [90, 70]), -np.concatenate([known, strange]), drop_intermediate=False
    )
    found = outliers.accepted_strangers(known, strange, np.ones((1, 90)), np.ones((1, 70)))
    assert found[0] == pytest.approx(false[true >= 0.95].min())
    times, others = rng.integers(0, 3, 90), rng.integers(0, 3, 70)
    weighted = outliers.accepted_strangers(
        known, strange, times[None].astype(float), others[None].astype(float)
    )
    again = outliers.accepted_strangers(
        np.repeat(known, times),
        np.repeat(strange, others),
        np.ones((1, times.sum())),
        np.ones((1, others.sum())),
    )
    assert weighted[0] == pytest.approx(again[0])
