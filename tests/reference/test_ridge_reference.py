"""Ridge is scikit-learn's for every penalty, and each label's regression is scikit-learn's on its known rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.linear_model import Ridge as Plain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featprobe.probes import Rule, fit_probe, ridge

PREVALENCE = 0.3


def numbers(rows, columns, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns)) * np.exp(-np.arange(columns) / 30) + 3.0
    X[:, 0] = 2.0
    way = np.random.default_rng(7).standard_normal(columns)
    return X, 60 + X @ way + noise * rng.standard_normal(rows)


def folds(rows, count=3):
    fold = np.arange(rows) % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def fit(name, X, y, task, cut=None, n_classes=1, **changes):
    cut = folds(len(X)) if cut is None else cut
    return fit_probe(
        name, X, y, n_classes=n_classes, selection=cut, calibration=cut, seed=0, task=task, **changes
    )


@pytest.mark.parametrize(("rows", "columns"), [(60, 150), (200, 30)])
def test_ridge_is_plain_scikit_learn(rows, columns):
    X, y = numbers(rows, columns)
    new, _ = numbers(40, columns, seed=1)
    fitted = fit("ridge", X, y, "continuous")

    def plain(alpha):
        return make_pipeline(StandardScaler(), Plain(alpha=alpha, solver="svd"))

    losses = []
    for alpha in ridge.GRID:
        each = [np.mean((plain(alpha).fit(X[f], y[f]).predict(X[v]) - y[v]) ** 2) for f, v in folds(rows)]
        losses.append(np.mean(each))
        assert fitted.scores[alpha] == pytest.approx(-losses[-1], rel=1e-9)
    tied = [alpha for alpha, loss in zip(ridge.GRID, losses, strict=True) if loss <= 1.001 * min(losses)]
    assert fitted.chosen == {"alpha": max(tied)}
    expected = plain(fitted.chosen["alpha"]).fit(X, y).predict(new)
    np.testing.assert_allclose(fitted.predict(new)[:, 0], expected, rtol=1e-9)


def test_ridge_says_where_the_grid_ends():
    X, y = numbers(60, 20)
    nothing = fit("ridge", X, np.random.default_rng(5).standard_normal(60), "continuous")
    assert nothing.chosen["alpha"] == max(ridge.GRID)
    assert "strong end" in nothing.notes[0]
    assert fit("ridge", X, y, "continuous").notes == ()


def test_ridge_scales_on_the_training_part_alone():
    X, y = numbers(90, 20)
    spoiled = X.copy()
    spoiled[60:] *= 1e6
    only = [(np.arange(40), np.arange(40, 60))]
    scores = [fit("ridge", table, y, "continuous", only).scores for table in (X, spoiled)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("rows", "columns"), [(40, 60), (80, 12)])
def test_leaving_out_one_row_costs_nothing_and_is_what_refitting_gives(rows, columns):
    X, y = numbers(rows, columns)
    scaled = StandardScaler().fit_transform(X)
    others = ~np.eye(rows, dtype=bool)
    alphas = ridge.GRID[::4]
    found = ridge.Decomposed.of(scaled, y[:, None]).left_out(alphas)[:, :, 0]
    for alpha, values in zip(alphas, found, strict=True):
        model = Plain(alpha=alpha, solver="svd")
        refitted = [model.fit(scaled[own], y[own]).predict(scaled[~own])[0] for own in others]
        np.testing.assert_allclose(values, refitted, rtol=1e-7)


@pytest.mark.parametrize(("rows", "columns"), [(40, 60), (80, 12)])
def test_the_alpha_of_leaving_one_out_is_ridgecvs(rows, columns):
    X, y = numbers(rows, columns)
    rule = Rule(pick="best", options={"choose": "leave-one-out"})
    fitted = fit("ridge", X, y, "continuous", rule=rule)
    plain = RidgeCV(alphas=ridge.GRID, store_cv_results=True).fit(StandardScaler().fit_transform(X), y)
    assert fitted.chosen["alpha"] == plain.alpha_
    expected = dict(zip(ridge.GRID, -plain.cv_results_.mean(axis=0), strict=True))
    for alpha, value in fitted.scores.items():
        assert value == pytest.approx(expected[alpha], rel=1e-6)
    assert "rows of one group" in fitted.notes[-1]
    np.testing.assert_allclose(
        fitted.predict(X)[:, 0], plain.predict(StandardScaler().fit_transform(X)), rtol=1e-8
    )


def labels(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns))
    y = (X[:, :3] + 0.8 * rng.standard_normal((rows, 3)) > 0).astype(np.int64)
    y[rng.random(y.shape) < PREVALENCE] = -1
    return X, y


@pytest.mark.parametrize("columns", [20, 150])
def test_each_label_is_a_regression_of_its_own_on_the_rows_that_know_it(columns):
    X, y = labels(120, columns)
    new, _ = labels(40, columns, seed=1)
    together = fit("logistic", X, y, "multilabel", n_classes=3, label_names=("a", "b", "c"))
    found = together.predict(new)
    for label, name in enumerate("abc"):
        known = np.flatnonzero(y[:, label] >= 0)
        place = {row: i for i, row in enumerate(known)}
        cut = [
            tuple(np.array([place[row] for row in part if row in place]) for part in pair)
            for pair in folds(120)
        ]
        alone = fit("logistic", X[known], y[known, label], "classes", cut, n_classes=2)
        assert together.chosen[f"C of {name}"] == alone.chosen["C"]
        np.testing.assert_allclose(found[:, label], alone.predict_proba(new)[:, 1], atol=1e-6)
        plain = make_pipeline(
            StandardScaler(), LogisticRegression(C=alone.chosen["C"], tol=1e-10, max_iter=50_000)
        )
        expected = plain.fit(X[known], y[known, label]).predict_proba(new)[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=1e-6)


def test_a_label_without_two_values_predicts_its_prevalence_and_says_so():
    X, y = labels(90, 10)
    rare = np.zeros(90, dtype=np.int64)
    rare[0] = 1  # a single positive: the fold that holds it out has none to fit on, the others none to miss
    only = [(np.arange(30, 90), np.arange(30))]
    never, unknown = np.zeros(90, dtype=np.int64), np.full(90, -1)
    table = np.column_stack([y[:, 0], never, unknown, rare])
    names = ("edema", "never", "unknown", "rare")
    fitted = fit("logistic", X, table, "multilabel", only, n_classes=4, label_names=names)
    found = fitted.predict(X)
    assert (found[:, 1] == 0).all()
    assert (found[:, 2] == 0.5).all()
    np.testing.assert_allclose(found[:, 3], 1 / 90)
    assert set(fitted.chosen) == {"C of edema"}
    assert [note.split(":")[0] for note in fitted.notes] == ["label never", "label unknown", "label rare"]
    assert "one value" in fitted.notes[0]
    assert "C can't be chosen" in fitted.notes[2]
