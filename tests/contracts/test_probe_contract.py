"""Every registered probe keeps the contract, so that a new one needs no test of its own for these."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from featprobe.errors import ProbeError
from featprobe.probes import DEFAULT_PROBES, describe, fit_probe
from featprobe.registry import PROBES

NAMES = PROBES.names()


def data(classes=3, rows=90, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    X = rng.standard_normal((rows, columns)) + 2.0 * np.eye(classes, columns)[y]
    return X.astype(np.float32), y


def parts(rows, folds=3):
    fold = np.arange(rows) // 3 % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def fit(name, X, y, n_classes, selection=None, calibration=None):
    cut = parts(len(y))
    return fit_probe(
        name, X, y, n_classes=n_classes, selection=selection or cut, calibration=calibration or cut, seed=0
    )


def test_the_defaults_are_registered():
    assert set(DEFAULT_PROBES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEveryProbe:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_gives_probabilities_for_new_rows(self, name, classes):
        X, y = data(classes)
        fitted = fit(name, X, y, classes)
        new, truth = data(classes, seed=1)
        found = fitted.predict_proba(new)
        assert found.shape == (len(new), classes)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
        assert (found >= 0).all()
        assert (found.argmax(axis=1) == truth).mean() > 0.7
        assert fitted.predict_proba(new[:0]).shape == (0, classes)
        assert describe(name)
        assert fitted.chosen["C"] in fitted.scores

    def test_a_class_that_training_lacks_gets_nothing(self, name):
        X, y = data(2)
        fitted = fit(name, X, y * 2, 4)
        found = fitted.predict_proba(X)
        assert (found[:, [1, 3]] == 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)

    def test_is_a_function_of_its_arguments(self, name):
        X, y = data()
        first, second = fit(name, X, y, 3), fit(name, X, y, 3)
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
        again = pickle.loads(pickle.dumps(first))  # noqa: S301 - made one line above, as joblib does it
        np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))

    def test_scales_inside_and_bears_constant_columns(self, name):
        X, y = data()
        plain = fit(name, X, y, 3).predict_proba(X)
        moved = np.hstack([X * 1000.0 - 7.0, np.full((len(X), 2), 3.0)])
        np.testing.assert_allclose(fit(name, moved, y, 3).predict_proba(moved), plain, atol=2e-3)

    def test_one_row_does_not_see_its_neighbours(self, name):
        X, y = data()
        fitted = fit(name, X, y, 3)
        whole = fitted.predict_proba(X)
        np.testing.assert_allclose(fitted.predict_proba(X[[5]]), whole[[5]], atol=1e-12)

    def test_a_selection_part_may_lack_a_class(self, name):
        X, y = data()
        cut = parts(len(y))
        lacking = [(fit_rows[y[fit_rows] != 2], held) for fit_rows, held in cut[:1]] + cut[1:]
        assert np.isfinite(list(fit(name, X, y, 3, selection=lacking).scores.values())).all()

    def test_refuses_what_cannot_be_fitted(self, name):
        X, y = data()
        broken = X.copy()
        broken[[3, 8], 1] = np.nan, np.inf
        with pytest.raises(ProbeError, match="2 of 90 training embeddings"):
            fit(name, broken, y, 3)
        with pytest.raises(ProbeError, match="2 of 90 test embeddings"):
            fit(name, X, y, 3).predict_proba(broken)
        with pytest.raises(ProbeError, match="needs two classes"):
            fit(name, X, np.zeros_like(y), 3)
        with pytest.raises(ProbeError, match="outside"):
            fit(name, X, y - 1, 3)
        with pytest.raises(ProbeError, match="fitted on"):
            fit(name, X, y, 3).predict_proba(X[:, :-1])
