"""Every registered probe keeps the contract for every target it declares, so that a new one needs no test."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from featprobe.errors import ProbeError
from featprobe.probes import DEFAULT_PROBES, describe, fit_probe, need_suitable, probes_for
from featprobe.records import TASKS
from featprobe.registry import PROBES

NAMES = [name for name, probe in PROBES.items() if "classes" in probe.tasks]
PAIRS = [(name, task) for name, probe in PROBES.items() for task in probe.tasks]

LEAST = {"classes": 0.7, "ordinal": 0.7, "multilabel": 0.8, "continuous": 0.9}
"""Accuracy, or correlation of a number, on new rows."""
NEIGHBOURS = {"classes": 0.6, "ordinal": 0.6, "multilabel": 0.7, "continuous": 0.5}
"""What 90 rows in 12 dimensions teach a probe that fits no line."""


def least(name, task):
    return (NEIGHBOURS if name == "knn" else LEAST)[task]


def data(classes=3, rows=90, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    X = rng.standard_normal((rows, columns)) + 2.0 * np.eye(classes, columns)[y]
    return X.astype(np.float32), y


def target(task, rows=90, columns=12, seed=0):
    """(X, y, n_classes) of each kind of target, learnable, with missing cells where the task has them."""
    X, y = data(3, rows, columns, seed)
    if task == "continuous":
        return X, 40 + X[:, :4].sum(axis=1).astype(float), 1
    if task == "ordinal":
        X[:, :3] += 2.0 * y[:, None]  # in order along one direction
    if task == "multilabel":
        labels = np.stack([X[:, k] > 0.7 for k in range(3)], axis=1).astype(np.int64)
        labels[np.random.default_rng(seed).random(labels.shape) < 0.1] = -1
        return X, labels, 3
    return X, y, 3


def parts(rows, folds=3):
    fold = np.arange(rows) // 3 % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def fit(name, X, y, n_classes, selection=None, calibration=None, task="classes"):
    cut = parts(len(y))
    return fit_probe(
        name,
        X,
        y,
        n_classes=n_classes,
        selection=selection or cut,
        calibration=calibration or cut,
        seed=0,
        task=task,
    )


def test_the_defaults_are_registered():
    assert probes_for("classes") == DEFAULT_PROBES
    assert {(name, task) for task in TASKS for name in probes_for(task)} <= set(PAIRS)


@pytest.mark.parametrize(("name", "task"), PAIRS)
class TestEveryTask:
    def test_predicts_what_the_records_hold(self, name, task):
        X, y, n_classes = target(task)
        fitted = fit(name, X, y, n_classes, task=task)
        new, truth, _ = target(task, seed=1)
        found = fitted.predict(new)
        assert found.shape == (90, n_classes)
        assert found.dtype == np.float64
        assert fitted.predict(new[:0]).shape == (0, n_classes)
        assert fitted.task == task
        if task == "continuous":
            assert np.corrcoef(found[:, 0], truth)[0, 1] > least(name, task)
            with pytest.raises(ProbeError, match="no probabilities"):
                fitted.predict_proba(new)
            return
        assert ((found >= 0) & (found <= 1)).all()
        np.testing.assert_array_equal(found, fitted.predict_proba(new))
        if task == "multilabel":
            known = truth >= 0
            assert ((found > 0.5) == truth)[known].mean() > least(name, task)
        else:
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
            assert (found.argmax(axis=1) == truth).mean() > least(name, task)

    def test_chooses_on_the_grid_and_describes_itself(self, name, task):
        X, y, n_classes = target(task)
        fitted = fit(name, X, y, n_classes, task=task)
        assert describe(name)
        assert fitted.chosen
        assert set(fitted.chosen.values()) <= set(fitted.scores)
        assert np.isfinite(list(fitted.scores.values())).all()

    def test_is_a_function_of_its_arguments_and_pickles(self, name, task):
        X, y, n_classes = target(task)
        first, second = (fit(name, X, y, n_classes, task=task) for _ in range(2))
        again = pickle.loads(pickle.dumps(first))  # noqa: S301 - made one line above, as joblib does it
        np.testing.assert_array_equal(first.predict(X), second.predict(X))
        np.testing.assert_array_equal(first.predict(X), again.predict(X))
        np.testing.assert_allclose(first.predict(X[[5]]), first.predict(X)[[5]], rtol=1e-12, atol=1e-12)

    def test_scales_inside_and_bears_constant_columns(self, name, task):
        X, y, n_classes = target(task)
        plain = fit(name, X, y, n_classes, task=task).predict(X)
        moved = np.hstack([X * 1000.0 - 7.0, np.full((len(X), 2), 3.0)])
        np.testing.assert_allclose(fit(name, moved, y, n_classes, task=task).predict(moved), plain, atol=2e-3)

    def test_refuses_what_cannot_be_fitted(self, name, task):
        X, y, n_classes = target(task)
        broken = X.copy()
        broken[[3, 8], 1] = np.nan, np.inf
        with pytest.raises(ProbeError, match="2 of 90 training embeddings"):
            fit(name, broken, y, n_classes, task=task)
        with pytest.raises(ProbeError, match="2 of 90 test embeddings"):
            fit(name, X, y, n_classes, task=task).predict(broken)
        with pytest.raises(ProbeError, match="needs"):
            fit(name, X, np.zeros_like(y), n_classes, task=task)
        with pytest.raises(ProbeError, match="do not fit together"):
            fit(name, X[:-1], y, n_classes, task=task)
        with pytest.raises(ProbeError, match=r"outside|missing"):
            fit(name, X, y * np.nan if task == "continuous" else y - 5, n_classes, task=task)


@pytest.mark.parametrize("name", PROBES.names())
@pytest.mark.parametrize("task", TASKS)
def test_an_unsuitable_probe_names_those_that_fit(name, task):
    if (name, task) in PAIRS:
        need_suitable(name, task)
        return
    with pytest.raises(ProbeError, match=f"probes that can: .*{probes_for(task)[0]}"):
        fit(name, *target(task), task=task)


def test_every_kind_of_target_has_a_probe():
    assert {task for _, task in PAIRS} == set(TASKS)


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
        assert (found.argmax(axis=1) == truth).mean() > least(name, "classes")
        assert fitted.predict_proba(new[:0]).shape == (0, classes)
        assert describe(name)
        assert set(fitted.chosen.values()) <= set(fitted.scores)

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
