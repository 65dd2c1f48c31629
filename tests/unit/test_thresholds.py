"""Moved thresholds: the best cuts on held-out rows, found in the training data and recorded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from featprobe.probes.thresholds import moved
from featprobe.records.outcome import decided
from featprobe.stages.moving import _inside, _settled


def score(truth, y_score, thresholds, task="classes"):
    return balanced_accuracy_score(truth, decided(y_score, thresholds, task).argmax(axis=1))


@given(seed=st.integers(0, 10_000), rows=st.integers(6, 40), rare=st.floats(0.1, 0.5))
@settings(max_examples=40, deadline=None)
def test_of_two_classes_the_best_of_all_cuts_is_found(seed, rows, rare):
    rng = np.random.default_rng(seed)
    truth = (rng.random(rows) < rare).astype(int)
    truth[:2] = 0, 1
    p = np.round(np.clip(0.3 * truth + rng.random(rows) * 0.6, 0.01, 0.99), 2)
    y_score = np.stack([1 - p, p], axis=1)
    thresholds = moved(truth, y_score, "classes")
    assert np.isclose(thresholds.sum(), 1)
    cuts = [0.5, *((a + b) / 2 for a, b in itertools.pairwise(np.unique(p)))]
    best = max(balanced_accuracy_score(truth, p > cut) for cut in cuts)
    assert np.isclose(score(truth, y_score, thresholds), best)


@given(seed=st.integers(0, 10_000), classes=st.integers(3, 6))
@settings(max_examples=30, deadline=None)
def test_of_more_classes_nothing_is_lost_and_no_single_cut_gains(seed, classes):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.choice(classes, 60, p=rng.dirichlet(np.ones(classes)))])
    y_score = rng.dirichlet(np.ones(classes), len(truth)) + 0.3 * np.eye(classes)[truth]
    y_score /= y_score.sum(axis=1, keepdims=True)
    thresholds = moved(truth, y_score, "classes")
    found = score(truth, y_score, thresholds)
    assert found >= balanced_accuracy_score(truth, y_score.argmax(axis=1)) - 1e-12
    assert ((thresholds > 0) & (thresholds < 1)).all()
    for k, factor in itertools.product(range(classes), (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)):
        other = thresholds.copy()
        other[k] *= factor
        assert score(truth, y_score, other / other.sum()) <= found + 1e-12


def test_plain_cuts_stay_where_they_are_best():
    truth = np.array([0, 0, 1, 1])
    y_score = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]])
    assert moved(truth, y_score, "classes").tolist() == [0.5, 0.5]


def test_each_label_is_cut_by_itself_on_its_known_rows():
    truth = np.array([[0, 1, -1], [0, 1, 0], [1, 1, 0], [1, -1, 1]])
    y_score = np.array([[0.1, 0.3, 0.9], [0.2, 0.3, 0.1], [0.3, 0.4, 0.2], [0.4, 0.5, 0.4]])
    thresholds = moved(truth, y_score, "multilabel")
    # In the middle of two scores on the scale of log odds.
    odds = np.sqrt(0.2 / 0.8 * 0.3 / 0.7), 0.5, np.sqrt(0.2 / 0.8 * 0.4 / 0.6)
    assert np.allclose(thresholds, [odds[0] / (1 + odds[0]), 0.5, odds[2] / (1 + odds[2])])
    assert (
        (decided(y_score, thresholds, "multilabel") > 0.5) == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1]]
    ).all()


def test_a_class_that_never_has_any_probability_does_no_harm():
    truth = np.array([0, 0, 0, 1, 1, 2])
    y_score = np.array([[0.7, 0.3, 0.0]] * 4 + [[0.6, 0.4, 0.0]] * 2)
    thresholds = moved(truth, y_score, "classes")
    assert np.isfinite(thresholds).all()
    assert score(truth, y_score, thresholds) == pytest.approx(0.5)  # of 1, 1/2 and 0


def test_a_part_is_calibrated_without_the_rows_that_it_is_cut_on():
    held = [np.array([0, 3]), np.array([1, 4]), np.array([2, 5])]
    everything = np.arange(7)  # row 6 is only ever fitted to
    parts = [(np.setdiff1d(everything, own), own) for own in held]
    for number, (fit, judged) in enumerate(parts):
        inner = _inside(parts, number)
        assert len(inner) == 2
        for rows, asked in inner:
            assert not set(fit[rows]) & set(judged)
            assert not set(fit[asked]) & set(judged)
            assert not set(rows) & set(asked)
            assert 6 in fit[rows]


def test_labels_with_one_value_of_c_are_fitted_together():
    from featprobe.probes import Rule

    chosen = {"C of a": 0.1, "C of b": 1.0, "C of c": 0.1}
    found = [(labels.tolist(), rule.grid) for labels, rule in _settled(Rule(), chosen, "abc", "multilabel")]
    assert found == [([0, 2], (0.1,)), ([1], (1.0,))]
    ((labels, rule),) = _settled(Rule(refit=False), {"k": 20.0}, "abc", "multilabel")
    assert (labels, rule.grid, rule.refit) == (None, (20.0,), True)


def unequal(rng, rows, task):
    y = rng.choice(3, rows, p=[0.8, 0.12, 0.08])
    X = rng.normal(size=(rows, 6)) + np.eye(3, 6)[y]
    return X, np.stack([y == 0, y == 2], axis=1).astype(int) if task == "multilabel" else y


@pytest.mark.parametrize(
    ("name", "task"), [("logistic", "classes"), ("logistic", "multilabel"), ("svm", "classes")]
)
def test_moved_decisions_find_rare_classes_in_rows_never_seen(name, task):
    from featprobe.metrics import evaluate
    from featprobe.registry import PROTOCOLS
    from featprobe.stages.fitting import Work, fit

    rng = np.random.default_rng(0)
    X, y = unequal(rng, 200, task)
    X_test, truth = unequal(rng, 2000, task)
    place = np.arange(len(y)) % 4
    parts = [(np.flatnonzero(place != k), np.flatnonzero(place == k)) for k in range(4)]
    names = ("first", "last") if task == "multilabel" else ("first", "second", "last")
    work = Work(
        protocol=PROTOCOLS.get("featprobe"), fits=name, X={"gap": X}, y=y, X_test={"gap": X_test}, label_names=names,
        task=task, selection=parts, calibration=parts, seed=0, shots=0, few=False, moving=parts,
    )  # fmt: skip
    found = fit(work)
    assert found.thresholds is not None
    assert found.chosen["threshold of last"] == found.thresholds[-1] < 0.5
    metric = "macro_balanced_accuracy" if task == "multilabel" else "balanced_accuracy"
    plain = evaluate(metric, truth, found.y_score, task=task)[0]
    moved_score = decided(found.y_score, found.thresholds, task)
    assert evaluate(metric, truth, moved_score, task=task)[0] > plain + 0.03
