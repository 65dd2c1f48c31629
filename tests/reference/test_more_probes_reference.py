"""Neighbours, class means, discriminants, ordered classes and concordance are scikit-learn's, or their papers' plain rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize

from featprobe.probes import Rule, fit_probe, lda, ordinal
from featprobe.probes.paths import Settings


def classes(rows=150, columns=12, count=4, seed=0, signal=1.2):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % count)
    X = rng.standard_normal((rows, columns)) @ np.diag(np.exp(-np.arange(columns) / 8))
    return 5 + X + signal * np.eye(count, columns)[y], y


def folds(rows, count=3):
    fold = np.arange(rows) % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def fit(name, X, y, task="classes", n_classes=4, **rule):
    cut = folds(len(X))
    return fit_probe(
        name, X, y, n_classes=n_classes, selection=cut, calibration=cut, seed=0, task=task, rule=Rule(**rule)
    )


@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_euclidean_majority_is_scikit_learns_with_its_ties(k):
    X, y = classes()
    new, _ = classes(seed=1)
    plain = KNeighborsClassifier(k, algorithm="brute").fit(X, y)
    found = fit("knn", X, y, grid=(k,), scale="none", options={"metric": "euclidean"}).predict_proba(new)
    np.testing.assert_allclose(found, plain.predict_proba(new), atol=1e-12)
    np.testing.assert_array_equal(found.argmax(axis=1), plain.predict(new))
    tied = np.sort(found, axis=1)
    assert k != 2 or (tied[:, -1] == tied[:, -2]).any()  # the lowest of the tied classes, as there


def test_a_number_is_the_neighbours_mean():
    X, _ = classes()
    new, _ = classes(seed=1)
    y = X[:, 0] ** 2
    found = fit("knn", X, y, "continuous", 1, grid=(9,), options={"metric": "euclidean"}).predict(new)
    scaler = StandardScaler().fit(X)
    plain = KNeighborsRegressor(9, algorithm="brute").fit(scaler.transform(X), y)
    np.testing.assert_allclose(found[:, 0], plain.predict(scaler.transform(new)), rtol=1e-10)


def test_the_vote_by_temperature_is_dinov2s():
    X, y = classes()
    new, _ = classes(seed=1)
    grid, rows, temperature = (100, 20, 10, 5), normalize(X), 0.07
    for k in grid:
        similarity = normalize(new) @ rows.T
        found = fit("knn", X, y, grid=(k,), scale="l2").predict_proba(new)
        for row in range(len(new)):
            near = np.argsort(-similarity[row])[: max(grid)]
            weight = np.exp(similarity[row, near] / temperature)
            weight /= weight.sum()  # a softmax over the most that are asked for, then cut to k
            votes = np.array([weight[:k][y[near[:k]] == label].sum() for label in range(4)])
            np.testing.assert_allclose(found[row], votes / votes.sum(), atol=1e-10)


def test_ml_knn_is_the_papers_rule():
    rng = np.random.default_rng(3)
    X, new, k, s = rng.standard_normal((80, 5)), rng.standard_normal((30, 5)), 6, 1.0
    y = (X[:, :3] + 0.5 * rng.standard_normal((80, 3)) > 0.3).astype(np.int64)
    found = fit(
        "knn",
        X,
        y,
        "multilabel",
        3,
        grid=(k,),
        scale="none",
        options={"metric": "euclidean", "vote": "mlknn"},
    )
    found = found.predict(new)

    def near(x, leave):
        distance = np.square(X - x).sum(axis=1)
        distance[leave] = np.inf
        return np.argsort(distance)[:k]

    for label in range(3):
        has = y[:, label] == 1
        prior = (s + has.sum()) / (2 * s + len(X))
        counts = np.zeros((2, k + 1))
        for row in range(len(X)):
            counts[int(has[row]), has[near(X[row], row)].sum()] += 1
        lacking, having = (s + counts) / (s * (k + 1) + counts.sum(axis=1, keepdims=True))
        for row in range(len(new)):
            j = has[near(new[row], [])].sum()
            yes, no = prior * having[j], (1 - prior) * lacking[j]
            assert found[row, label] == pytest.approx(yes / (yes + no), rel=1e-12)


def test_labels_share_neighbours_and_those_that_do_not_know_say_nothing():
    X, _ = classes()
    y = (X[:, :3] > X[:, :3].mean(axis=0)).astype(np.int64)
    y[np.random.default_rng(1).random(y.shape) < 0.3] = -1
    new, _ = classes(seed=1)
    options = {"metric": "euclidean"}
    found = fit("knn", X, y, "multilabel", 3, grid=(3,), scale="none", options=options).predict(new)
    nearest = KNeighborsClassifier(3, algorithm="brute").fit(X, y[:, 0]).kneighbors(new)[1]
    for row, label in np.ndindex(found.shape):
        own = y[nearest[row], label]
        known = own[own >= 0]
        prior = y[:, label][y[:, label] >= 0].mean()
        assert found[row, label] == pytest.approx(known.mean() if len(known) else prior, rel=1e-12)


def test_the_nearest_mean_is_scikit_learns():
    X, y = classes()
    new, _ = classes(seed=1)
    fitted = fit("centroid", X, y)
    scaler = StandardScaler().fit(X)
    plain = NearestCentroid(priors="uniform").fit(scaler.transform(X), y)
    np.testing.assert_array_equal(
        fitted.predict_proba(new).argmax(axis=1), plain.predict(scaler.transform(new))
    )
    rows, v = scaler.transform(X), 0.0
    means = np.array([rows[y == k].mean(axis=0) for k in range(4)])
    v = np.mean((rows - means[y]) ** 2)
    distance = np.array([[np.sum((x - m) ** 2) for m in means] for x in scaler.transform(new)])
    plain = np.exp(-distance / (2 * v * fitted.chosen["temperature"]))
    np.testing.assert_allclose(
        fitted.predict_proba(new), plain / plain.sum(axis=1, keepdims=True), atol=1e-10
    )


def test_simpleshot_is_the_papers_rule():
    X, y = classes()
    new, _ = classes(seed=1)
    fitted = fit("simpleshot", X, y)
    rows, asked = normalize(X - X.mean(axis=0)), normalize(new - X.mean(axis=0))
    means = np.array([rows[y == k].mean(axis=0) for k in range(4)])
    distance = np.array([[np.sum((x - m) ** 2) for m in means] for x in asked])
    plain = np.exp(-distance / fitted.chosen["temperature"])
    np.testing.assert_allclose(
        fitted.predict_proba(new), plain / plain.sum(axis=1, keepdims=True), atol=1e-10
    )
    assert (fitted.predict_proba(new).argmax(axis=1) == distance.argmin(axis=1)).all()


@pytest.mark.parametrize(("rows", "columns"), [(150, 12), (40, 90)])
def test_lda_is_scikit_learns_at_every_shrinkage(rows, columns):
    X, y = classes(rows, columns)
    new, _ = classes(50, columns, seed=1)
    scaler = StandardScaler().fit(X)
    for shrinkage in lda.GRID:
        if shrinkage == 0 and rows < columns:
            continue  # which directions are left out there is a matter of rounding
        plain = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaler.transform(X), y)
        found = fit("lda", X, y, grid=(shrinkage,)).predict_proba(new)
        np.testing.assert_allclose(found, plain.predict_proba(scaler.transform(new)), atol=1e-8)


def test_lda_by_ledoit_and_wolf():
    X, y = classes(40, 90)
    rows = StandardScaler().fit_transform(X)
    within = rows - np.array([rows[y == k].mean(axis=0) for k in range(4)])[y]
    expected = ledoit_wolf_shrinkage(within, assume_centered=True)
    chosen = fit("lda", X, y, options={"choose": "ledoit-wolf"}).chosen
    assert chosen["shrinkage"] == pytest.approx(expected, rel=1e-12)
    assert 0 < chosen["shrinkage"] < 1


@pytest.mark.parametrize(("count", "rows", "columns"), [(2, 120, 10), (4, 120, 10), (3, 40, 80)])
def test_ridge_classifier_orders_classes_as_scikit_learn(count, rows, columns):
    X, y = classes(rows, columns, count)
    new, _ = classes(200, columns, count, seed=1)
    fitted = fit("ridge_classifier", X, y, n_classes=count)
    scaler = StandardScaler().fit(X)
    plain = RidgeClassifier(alpha=fitted.chosen["alpha"]).fit(scaler.transform(X), y)
    decided = plain.decision_function(scaler.transform(new))
    decided = np.column_stack([-decided, decided]) if count == 2 else decided
    found = fitted.predict_proba(new)
    np.testing.assert_array_equal(found.argmax(axis=1), decided.argmax(axis=1))
    sharp = np.log(found[:, 0] / found[:, 1]) / (decided[:, 0] - decided[:, 1])
    np.testing.assert_allclose(sharp, sharp[0], rtol=1e-6)  # one factor for all rows

    def loss(log):
        total = 0.0
        for own, held in folds(rows):
            part = StandardScaler().fit(X[own])
            model = RidgeClassifier(alpha=fitted.chosen["alpha"]).fit(part.transform(X[own]), y[own])
            values = model.decision_function(part.transform(X[held]))
            values = np.exp(log) * (np.column_stack([-values, values]) if count == 2 else values)
            total += (np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(held)), y[held]]).sum()
        return total

    best = loss(np.log(sharp[0]))
    assert best < loss(np.log(sharp[0]) + 0.02)
    assert best < loss(np.log(sharp[0]) - 0.02)


def ordered(rows, columns, count, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns))
    value = X[:, :3].sum(axis=1) + rng.logistic(size=rows)
    return X, np.searchsorted(np.quantile(value, np.arange(1, count) / count), value)


@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_two_ordered_classes_are_logistic_regression(C):
    X, y = ordered(80, 6, 2)
    plain = LogisticRegression(C=C, tol=1e-12, max_iter=10_000).fit(X, y)
    found = fit("ordinal", X, y, "ordinal", 2, grid=(C,), scale="none").predict_proba(X)
    np.testing.assert_allclose(found, plain.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(90, 5), (25, 40)])
def test_proportional_odds_reach_the_plain_optimum(rows, columns):
    X, y = ordered(rows, columns, 4)
    path = ordinal.Ordinal().path(X, y, (0.01, 1.0, 30.0), Settings("ordinal", 4, 0))
    for place, C in enumerate((0.01, 1.0, 30.0)):

        def objective(t, C=C):
            cuts = np.r_[-np.inf, np.cumsum(np.r_[t[0], np.exp(t[1:3])]), np.inf]
            value = X @ t[3:]
            below = 1 / (1 + np.exp(-np.clip(cuts[y + 1] - value, -500, 500)))
            above = 1 / (1 + np.exp(-np.clip(cuts[y] - value, -500, 500)))
            return -C * np.log(below - above).sum() + 0.5 * t[3:] @ t[3:]

        model = path.keep(place)
        own = np.r_[model.cuts[0], np.log(np.diff(model.cuts)), model.coef]
        elsewhere = minimize(objective, np.zeros(3 + columns), method="BFGS", options={"gtol": 1e-6})
        assert objective(own) <= elsewhere.fun * (1 + 2e-8)
        assert model.gap <= ordinal.GAP
        cuts = np.r_[-np.inf, model.cuts, np.inf]
        below = 1 / (1 + np.exp(-(cuts - (X @ model.coef)[:, None])))
        np.testing.assert_allclose(path.predict(X)[place], np.diff(below, axis=1), atol=1e-12)


def test_without_a_penalty_it_is_statsmodels():
    """statsmodels 0.15.0, OrderedModel(y, X, distr="logit"), on the same numbers, cuts by transform_threshold_params."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((120, 3))
    y = np.digitize(X @ [1.0, -0.5, 0.2] + rng.logistic(size=120), [-1, 0.3, 1.5])
    model = ordinal.Ordinal().path(X, y, (1e6,), Settings("ordinal", 4, 0)).keep(0)
    np.testing.assert_allclose(model.coef, [1.08960217, -0.38582489, -0.06940882], atol=1e-6)
    np.testing.assert_allclose(model.cuts, [-0.5923338, 0.49866007, 1.826039], atol=1e-6)


def agreement(a, b):
    return 2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)


def test_concordance_is_the_maximum_agreement_linear_predictor():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4))
    y = 10 + X @ [1.0, -2.0, 0.5, 0.0] + 2 * rng.standard_normal(80)
    found = fit("concordance", X, y, "continuous", 1, grid=(1e-9,)).predict(X)[:, 0]
    least = LinearRegression().fit(X, y).predict(X)
    multiple = np.corrcoef(least, y)[0, 1]
    np.testing.assert_allclose(found, y.mean() + (least - y.mean()) / multiple, rtol=1e-8)
    assert agreement(found, y) == pytest.approx(multiple)

    def loss(t):
        return -agreement(X @ t[:4] + t[4], y)

    direct = minimize(loss, np.r_[np.ones(4), 0], method="BFGS", options={"gtol": 1e-10})
    assert agreement(found, y) >= -direct.fun - 1e-9


def test_the_penalty_of_concordance_is_chosen_by_concordance():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 90))
    y = X[:, 0] + 0.5 * rng.standard_normal(60)
    fitted = fit("concordance", X, y, "continuous", 1)
    for alpha, value in fitted.scores.items():
        each = []
        for own, held in folds(60):
            part = fit("concordance", X[own], y[own], "continuous", 1, grid=(alpha,))
            each.append(agreement(part.predict(X[held])[:, 0], y[held]))
        assert value == pytest.approx(np.mean(each), rel=1e-7)
    assert fitted.scores[fitted.chosen["alpha"]] >= max(fitted.scores.values()) * (1 - 1e-3)
