"""Balanced class weights are scikit-learn's, in every probe that knows them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from featprobe.errors import ConfigError
from featprobe.probes import Rule, fit_probe
from featprobe.probes.choosing import SCORES
from featprobe.probes.weighing import need_weighing, row_weights

BALANCED = {"class_weight": "balanced"}


def rare(classes=3, rows=150, columns=8):
    """Unequal classes that overlap: class k has about 1 / 4^k of the rows of class 0."""
    rng = np.random.default_rng(5)
    share = 0.25 ** np.arange(classes)
    y = rng.choice(classes, size=rows, p=share / share.sum())
    y[: 4 * classes] = np.repeat(np.arange(classes), 4)
    X = rng.normal(size=(rows, columns)) + 0.8 * np.eye(classes, columns)[y]
    return X * np.linspace(0.5, 3, columns), y


def parts(y, folds=4):
    place = np.empty(len(y), dtype=int)
    for k in np.unique(y):
        own = np.flatnonzero(y == k)
        place[own] = np.arange(len(own)) % folds
    return [(np.flatnonzero(place != k), np.flatnonzero(place == k)) for k in range(folds)]


def fitted(name, X, y, value, *, options=BALANCED, **more):
    classes = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
    folds = parts(y if y.ndim == 1 else y[:, 0])
    words = {"selection": folds, "calibration": folds, "seed": 0, "n_classes": classes, **more}
    return fit_probe(name, X, y, rule=Rule(grid=(value,), options=options), **words)


def test_row_weights_are_scikit_learns():
    _, y = rare()
    assert np.allclose(row_weights(y), compute_sample_weight("balanced", y), rtol=1e-14)
    labels = np.stack([y == 0, y == 2], axis=1).astype(int)
    labels[:20, 1] = -1
    weights = row_weights(labels)
    assert (weights[:20, 1] == 0).all()
    assert np.allclose(weights[20:, 1], compute_sample_weight("balanced", labels[20:, 1]))
    assert (row_weights(np.array([[1], [1], [-1]])) == [[1], [1], [0]]).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic(classes):
    X, y = rare(classes)
    ours = fitted("logistic", X, y, 0.1).predict(X)
    rows = StandardScaler().fit_transform(X)
    theirs = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=10_000).fit(rows, y)
    assert np.allclose(ours, theirs.predict_proba(rows), atol=1e-6)
    plain = fitted("logistic", X, y, 0.1, options={}).predict(X)
    assert np.abs(ours - plain).max() > 0.05


def test_logistic_of_several_labels():
    X, y = rare()
    labels = np.stack([y == 0, y == 2], axis=1).astype(int)
    labels[::9, 1] = -1
    ours = fitted("logistic", X, labels, 0.1, task="multilabel").predict(X)
    for label in range(2):
        known = labels[:, label] >= 0
        scaler = StandardScaler().fit(X[known])
        theirs = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=10_000)
        theirs.fit(scaler.transform(X[known]), labels[known, label])
        expected = expit(theirs.decision_function(scaler.transform(X)))
        assert np.allclose(ours[:, label], expected, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_lda(shrinkage):
    X, y = rare()
    ours = fitted("lda", X, y, shrinkage).predict(X)
    rows = StandardScaler().fit_transform(X)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(3, 1 / 3))
    assert np.allclose(ours, theirs.fit(rows, y).predict_proba(rows), atol=1e-8)


@pytest.mark.parametrize("columns", [8, 200])
def test_ridge_classifier(columns):
    X, y = rare(columns=columns)
    model = fitted("ridge_classifier", X, y, 10.0).model
    rows = StandardScaler().fit_transform(X)
    theirs = RidgeClassifier(alpha=10.0, class_weight="balanced").fit(rows, y)
    assert np.allclose(model.inner.decide(model.scaling(X)), theirs.decision_function(rows), atol=1e-8)


def test_svm_finds_rare_classes():
    X, y = rare(2, rows=90)
    recall = [
        (fitted("svm", X, y, 0.1, options=options).predict(X).argmax(axis=1) == y)[y == 1].mean()
        for options in ({}, BALANCED)
    ]
    rows = StandardScaler().fit_transform(X)
    machine = SVC(kernel="linear", C=0.1, class_weight="balanced").fit(rows, y)
    assert recall[1] > recall[0] + 0.1
    assert recall[1] > (machine.predict(rows) == y)[y == 1].mean() - 0.15


def test_a_choice_under_weights_is_judged_with_every_class_alike():
    _, y = rare()
    rng = np.random.default_rng(0)
    said = rng.dirichlet(np.ones(3), size=len(y))
    found = SCORES["balanced_log_loss"](y, said[None])
    assert np.isclose(found[0], -log_loss(y, said, sample_weight=compute_sample_weight("balanced", y)))
    labels = np.stack([y == 0, y == 2], axis=1).astype(int)
    labels[:30, 0] = -1
    weights = [compute_sample_weight("balanced", labels[labels[:, k] >= 0, k]) for k in range(2)]
    losses = [
        log_loss(labels[labels[:, k] >= 0, k], said[labels[:, k] >= 0, k], sample_weight=weights[k])
        for k in range(2)
    ]
    assert np.isclose(SCORES["balanced_log_loss"](labels, said[None, :, :2])[0], -np.mean(losses))


def test_probes_without_weights_are_refused_by_name():
    for name in ("knn", "centroid", "simpleshot", "ordinal"):
        with pytest.raises(ConfigError, match=f"can't be used with the {name} probe"):
            need_weighing(name, "ordinal")
    with pytest.raises(ConfigError, match="the target is a number"):
        need_weighing("ridge", "continuous")
    need_weighing("logistic", "multilabel")
    with pytest.raises(ConfigError, match="unknown class_weight"):
        fitted("lda", *rare(), 0.5, options={"class_weight": "even"})
